//! What travels? Fixed-size and archived records, keys, and the stamp each record carries.

mod key;
mod stamp;

pub use key::{FixedKey, Key};
pub use stamp::Stamp;
