//! The layout of a state in words, as checkpoints hold it: its hash, and how two of them differ.
//!
//! ```text
//! kind: role type, role type     value per key: key u64, value Payment{card: u64, cents: i64} (16 bytes)
//! ```
//! Here: reading such texts, whoever wrote them. Not here: writing them (the states; `record::schema` for the types).
//!
//! The hash does not count the names of structs: giving a type another name changes nothing. Names of fields do count: a field that means
//! something else must not be taken for the former one.

use super::page_hash::name_hash;

/// How deep a text is taken apart; what lies deeper is compared as a whole.
const DEPTH_MAX: usize = 16;
/// How many differences a message lists.
const DIFFERENCES_MAX: usize = 6;

/// The hash by which layouts are compared.
pub(crate) fn layout_hash(text: &str) -> u64 {
    name_hash(&[&nameless(text)])
}

/// The text without the names of structs.
fn nameless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '{' {
            out.truncate(out.trim_end_matches(is_of_name).len());
        }
        out.push(c);
    }
    out
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// How the asked layout differs from the stored one, field by field, in words.
pub(super) fn differences(stored: &str, asked: &str) -> String {
    let (stored, asked) = (fields(stored), fields(asked));
    let of = |path: &str, among: &[(String, String)]| {
        among.iter().find(|field| field.0 == path).map(|field| field.1.clone())
    };
    let mut found = Vec::new();
    for (path, was) in &stored {
        match of(path, &asked) {
            Some(is) if is != *was => found.push(format!("{path} was {was} and is {is}")),
            Some(_) => {}
            None => found.push(format!("{path} ({was}) is gone")),
        }
    }
    found.extend(
        asked.iter().filter(|(path, _)| of(path, &stored).is_none()).map(|(path, is)| format!("{path} ({is}) is new")),
    );
    match found.len() {
        0 => String::from("the same fields come in another order"),
        count if count > DIFFERENCES_MAX => {
            format!("{}; and {} more", found[..DIFFERENCES_MAX].join("; "), count - DIFFERENCES_MAX)
        }
        _ => found.join("; "),
    }
}

/// Every field of a layout by its path, with its type.
fn fields(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (kind, parts) = text.split_once(": ").unwrap_or((text, ""));
    out.push((String::from("the kind of state"), kind.to_owned()));
    for part in split(parts, ", ") {
        const ROLES: [&str; 4] = ["map key", "key", "value", "element"];
        let role = ROLES.into_iter().find_map(|role| Some((role, part.strip_prefix(role)?.strip_prefix(' ')?)));
        match role {
            Some((role, of)) => add_fields(role, of, DEPTH_MAX, &mut out),
            None if part.starts_with("expiring") => out.push((String::from("the time to live"), part.to_owned())),
            // The form of the cells follows from the types.
            None if part.is_empty() || part.starts_with("cells of ") => {}
            None => out.push((part.to_owned(), String::from("there"))),
        }
    }
    out
}

fn add_fields(path: &str, of: &str, depth: usize, out: &mut Vec<(String, String)>) {
    let pair = split(of, " and ");
    if pair.len() > 1 && depth > 0 {
        return pair.iter().enumerate().for_each(|(i, part)| add_fields(&format!("{path}.{i}"), part, depth - 1, out));
    }
    let body = of.find('{').zip(of.rfind('}')).filter(|(open, close)| open < close && depth > 0);
    let Some((open, close)) = body else {
        return out.push((path.to_owned(), of.to_owned()));
    };
    // What is around the fields, such as `Vec<>`. Sizes follow from the fields.
    let around = [of[..open].trim_end_matches(is_of_name), of[close + 1..].split(" (").next().unwrap_or("")].concat();
    if !around.is_empty() {
        out.push((path.to_owned(), around));
    }
    let inside = &of[open + 1..close];
    let variants = split(inside, " | ");
    let separator = if variants.len() > 1 { " | " } else { ", " };
    for field in split(inside, separator) {
        match field.split_once(": ") {
            Some((name, of)) if separator == ", " && name.chars().all(is_of_name) => {
                add_fields(&format!("{path}.{name}"), of, depth - 1, out);
            }
            _ => out.push((format!("{path}.{}", field.split('(').next().unwrap_or(field)), field.to_owned())),
        }
    }
}

/// The parts of a text between separators that are not within brackets.
fn split<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let (mut start, mut depth, mut at) = (0, 0i32, 0);
    while let Some(c) = text[at..].chars().next() {
        match c {
            '{' | '[' | '(' | '<' => depth += 1,
            '}' | ']' | ')' | '>' => depth -= 1,
            _ if depth == 0 && text[at..].starts_with(separator) => {
                parts.push(&text[start..at]);
                at += separator.len();
                start = at;
                continue;
            }
            _ => {}
        }
        at += c.len_utf8();
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str =
        "value per key: key u64, value Payment{card: u64, at: Time{ms: i64}, tags: Vec<Tag{id: u8}>} (32 bytes)";

    #[test]
    fn a_struct_may_be_given_another_name_and_a_field_may_not() {
        assert_eq!(layout_hash(STORED), layout_hash(&STORED.replace("Payment", "Paid")));
        assert_ne!(layout_hash(STORED), layout_hash(&STORED.replace("card", "account")));
    }

    #[test]
    fn differences_are_told_field_by_field() {
        let asked =
            STORED.replace("ms: i64", "ms: u32").replace("card: u64, ", "").replace("id: u8", "id: u8, name: String");
        assert_eq!(
            differences(STORED, &asked),
            "value.card (u64) is gone; value.at.ms was i64 and is u32; value.tags.name (String) is new"
        );
    }

    #[test]
    fn another_order_another_kind_and_a_time_to_live_are_told() {
        assert_eq!(
            differences("value per key: key u64, value {a: u8, b: u8}", "value per key: key u64, value {b: u8, a: u8}"),
            "the same fields come in another order"
        );
        assert_eq!(
            differences("list per key: key u64, element u8", "map per key: key u64, map key u8, value u8"),
            "the kind of state was list per key and is map per key; element (u8) is gone; map key (u8) is new; value (u8) is new"
        );
        assert_eq!(
            differences("value per key: key u64, value u8", "value per key: key u64, value u8, expiring in event time"),
            "the time to live (expiring in event time) is new"
        );
    }

    #[test]
    fn any_text_is_taken_apart_without_a_panic() {
        for text in
            ["", "}{", "a: key {{{{", "value per key: value }}}, key ((", "ü: key ä{ö: é}", &"value {a: ".repeat(5000)]
        {
            let _ = (differences(text, STORED), differences(STORED, text), layout_hash(text));
        }
    }
}
