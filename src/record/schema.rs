//! What a type consists of, in words: names and types of its fields in their order, all the way down. Written into every checkpoint.
//!
//! ```text
//! a number, a text          u64, String
//! an array, a list, a map   [u64; 4], Vec<u64>, BTreeMap<String, u64>
//! a struct                  Payment{card: u64, cents: i64}; a tuple is a struct without a name
//! an enum                   Shape{Empty | Circle(radius: f64) | Line(0: f64, 1: f64)}
//! a type within itself      ^Tree
//! ```
//! FROZEN: the texts are compared between versions of a program. Here: the trait, writing the texts, the types of the standard library.
//! Not here: comparing two texts (`state`), deriving (`tools/record-derive`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;

/// A type that can say what it consists of.
///
/// Derived by `#[derive(Record)]`, and by `#[derive(Schema)]` for types that are only parts of records or states.
///
/// ```
/// use millstream::record::schema_of;
/// use millstream::{Schema, rkyv};
///
/// #[derive(Schema, rkyv::Archive)]
/// struct Item { name: String, prices: Vec<f64> }
/// #[derive(Schema, rkyv::Archive)]
/// enum Order { Empty, Of { items: Vec<Item> }, Again(u64) }
/// assert_eq!(schema_of::<Order>(), "Order{Empty | Of(items: Vec<Item{name: String, prices: Vec<f64>}>) | Again(0: u64)}");
/// ```
///
/// A type that contains one which cannot say so does not compile:
///
/// ```compile_fail,E0277
/// struct Unknown(u64);
/// #[derive(millstream::Schema)]
/// struct Holder { unknown: Unknown }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say what it consists of, so a change of it could not be noticed at restore",
    note = "derive it: `#[derive(Record)]` for a record, `#[derive(millstream::Schema)]` for anything else that is kept in state"
)]
pub trait Schema {
    /// Writes what the type consists of.
    fn schema(out: &mut SchemaText);
}

/// What a type consists of, in words.
pub fn schema_of<T: Schema>() -> String {
    let mut out = SchemaText::default();
    T::schema(&mut out);
    out.text
}

/// The text being written.
#[derive(Debug, Default)]
pub struct SchemaText {
    text: String,
    /// The structs and enums that are begun: where, and called what.
    open: Vec<(&'static str, &'static str)>,
}

/// A field: its name, and what writes its type.
pub type SchemaField<'a> = (&'a str, fn(&mut SchemaText));

impl SchemaText {
    /// A type without parts.
    pub fn plain(&mut self, name: &str) {
        self.text.push_str(name);
    }

    /// A type made of others, as in `Vec<u64>`.
    pub fn of(&mut self, name: &str, parts: &[fn(&mut Self)]) {
        self.text.push_str(name);
        self.text.push('<');
        self.separated(", ", parts, |out, part| part(out));
        self.text.push('>');
    }

    /// A struct, by its module and name.
    pub fn structure(&mut self, module: &'static str, name: &'static str, fields: &[SchemaField<'_>]) {
        self.within(module, name, |out| out.fields(fields));
    }

    /// An enum, by its module and name: each variant with its fields.
    pub fn enumeration(&mut self, module: &'static str, name: &'static str, variants: &[(&str, &[SchemaField<'_>])]) {
        self.within(module, name, |out| {
            out.separated(" | ", variants, |out, (variant, fields)| {
                out.text.push_str(variant);
                if !fields.is_empty() {
                    out.text.push('(');
                    out.fields(fields);
                    out.text.push(')');
                }
            });
        });
    }

    fn within(&mut self, module: &'static str, name: &'static str, body: impl FnOnce(&mut Self)) {
        if self.open.contains(&(module, name)) {
            self.text.push('^');
            self.text.push_str(name);
            return;
        }
        self.open.push((module, name));
        self.text.push_str(name);
        self.text.push('{');
        body(self);
        self.text.push('}');
        self.open.pop();
    }

    fn fields(&mut self, fields: &[SchemaField<'_>]) {
        self.separated(", ", fields, |out, (name, of)| {
            out.text.push_str(name);
            out.text.push_str(": ");
            of(out);
        });
    }

    fn separated<T>(&mut self, separator: &str, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.text.push_str(separator);
            }
            each(self, item);
        }
    }
}

macro_rules! plain {
    ($($type:ty)*) => {$(
        impl Schema for $type {
            fn schema(out: &mut SchemaText) {
                out.plain(stringify!($type));
            }
        }
    )*};
}

plain! { u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 bool char String }

macro_rules! made_of {
    ($($name:ident<$($part:ident),*>)*) => {$(
        impl<$($part: Schema),*> Schema for $name<$($part),*> {
            fn schema(out: &mut SchemaText) {
                out.of(stringify!($name), &[$($part::schema),*]);
            }
        }
    )*};
}

made_of! { Vec<T> Option<T> BTreeSet<T> BTreeMap<K, V> Result<T, E> }

impl<T: Schema, S> Schema for HashSet<T, S> {
    fn schema(out: &mut SchemaText) {
        out.of("HashSet", &[T::schema]);
    }
}

impl<K: Schema, V: Schema, S> Schema for HashMap<K, V, S> {
    fn schema(out: &mut SchemaText) {
        out.of("HashMap", &[K::schema, V::schema]);
    }
}

impl<T: Schema> Schema for Box<T> {
    /// A box is archived like a reference to its content, unlike the content itself.
    fn schema(out: &mut SchemaText) {
        out.of("Box", &[T::schema]);
    }
}

impl<T: Schema, const N: usize> Schema for [T; N] {
    fn schema(out: &mut SchemaText) {
        out.text.push('[');
        T::schema(out);
        // Writing to a String does not fail.
        let _ = write!(out.text, "; {N}]");
    }
}

macro_rules! tuples {
    ($(($($part:ident $index:literal),*))*) => {$(
        impl<$($part: Schema),*> Schema for ($($part,)*) {
            fn schema(out: &mut SchemaText) {
                out.text.push('{');
                out.fields(&[$(($index, $part::schema)),*]);
                out.text.push('}');
            }
        }
    )*};
}

impl Schema for () {
    fn schema(out: &mut SchemaText) {
        out.plain("{}");
    }
}

tuples! {
    (A "0")
    (A "0", B "1")
    (A "0", B "1", C "2")
    (A "0", B "1", C "2", D "3")
    (A "0", B "1", C "2", D "3", E "4")
    (A "0", B "1", C "2", D "3", E "4", F "5")
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream::Schema;

    #[derive(Schema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Tree {
        name: String,
        children: Vec<Tree>,
    }

    #[test]
    fn a_type_within_itself_is_written_once() {
        assert_eq!(schema_of::<Tree>(), "Tree{name: String, children: Vec<^Tree>}");
    }

    #[test]
    fn types_of_the_standard_library_say_what_they_are_made_of() {
        assert_eq!(
            schema_of::<(HashMap<String, Option<[u8; 3]>>, Vec<(u64, bool)>)>(),
            "{0: HashMap<String, Option<[u8; 3]>>, 1: Vec<{0: u64, 1: bool}>}"
        );
    }
}
