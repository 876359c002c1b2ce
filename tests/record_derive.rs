//! The derive makes both kinds of record, and what it makes reads back in place.

use millstream::Record;
use millstream::record::{Record as _, Scratch};
use millstream::rkyv;

#[derive(Record, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Payment {
    card: u64,
    cents: i64,
}

#[derive(Record, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Debug, PartialEq)]
#[record(archived)]
struct Login {
    user: String,
    tries: Vec<u32>,
}

#[test]
fn a_fixed_size_record_travels_as_its_own_bytes() {
    let payment = Payment { card: 7, cents: -3 };
    let mut scratch = Scratch::default();
    let copied = payment.with_bytes(&mut scratch, |bytes| *Payment::view(bytes).unwrap()).unwrap();
    assert_eq!(copied, payment);
}

#[test]
fn an_archived_record_is_read_in_place_and_can_be_written_again_from_its_view() {
    let login = Login { user: "ada".into(), tries: vec![1, 2] };
    let (mut first, mut second) = (Scratch::default(), Scratch::default());
    login
        .with_bytes(&mut first, |bytes| {
            let view = Login::view(bytes).unwrap();
            assert_eq!(view.user, "ada");
            view.with_bytes(&mut second, |again| assert_eq!(Login::view(again).unwrap().tries.len(), 2)).unwrap();
        })
        .unwrap();
}

#[test]
fn damaged_archives_are_refused_with_the_type_and_the_length() {
    let refusal = Login::view(&[0xff; 24]).err().unwrap().to_string();
    assert!(refusal.starts_with("24 bytes are no ") && refusal.contains("Login"), "{refusal}");
}
