//! What travels? Fixed-size and archived records, keys, and the stamp each record carries.

mod key;
#[allow(clippy::module_inception, reason = "the folder's main type has the folder's name")]
mod record;
mod shape;
mod stamp;

pub use key::{FixedKey, Key};
pub use record::{FixedField, Record, RecordError, Scratch, archived, assert_fixed_field};
pub use shape::RecordShape;
pub use stamp::Stamp;
