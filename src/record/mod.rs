//! What travels? Fixed-size and archived records, keys, and the stamp each record carries.

mod key;
mod key_selector;
#[allow(clippy::module_inception, reason = "the folder's main type has the folder's name")]
mod record;
mod schema;
mod stamp;

pub use crate::exchange::RecordShape;
pub use key::{FixedKey, Key};
pub use key_selector::{ByRef, ByValue, KeySelector};
pub use record::{FixedField, Record, RecordError, Scratch, archived, assert_fixed_field};
pub use schema::{Schema, SchemaField, SchemaText, schema_of};
pub use stamp::Stamp;
