//! Values of states as JSON and as text.

use millstream::offline::Decoded;
use serde_json::{Map, Number, Value};

/// As JSON: numbers where JSON has them, bytes in hexadecimal, several values as an object if they have names.
pub(super) fn json(value: &Decoded) -> Value {
    match value {
        Decoded::Unsigned(number) => u64::try_from(*number).map_or_else(|_| number.to_string().into(), Value::from),
        Decoded::Signed(number) => i64::try_from(*number).map_or_else(|_| number.to_string().into(), Value::from),
        // NaN and the infinities are no JSON numbers.
        Decoded::Float(number) => Number::from_f64(*number).map_or_else(|| number.to_string().into(), Value::Number),
        Decoded::Text(text) => text.clone().into(),
        Decoded::Bytes(bytes) => hexadecimal(bytes).into(),
        Decoded::Many(many) if !many.is_empty() && many.iter().all(|(name, _)| name.is_some()) => {
            let named = many.iter().map(|(name, value)| (name.clone().unwrap_or_default(), json(value)));
            Value::Object(Map::from_iter(named))
        }
        Decoded::Many(many) => many.iter().map(|(_, value)| json(value)).collect(),
    }
}

/// As the text of a CSV field, without quotes: strings plain, everything else as JSON.
pub(super) fn text(value: &Decoded) -> String {
    match json(value) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Two digits a byte.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
