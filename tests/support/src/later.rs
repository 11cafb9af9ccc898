//! Messages that peers of a later version of the host may send.

use rmpv::Value;

/// The same message with an additional field in each of its structs.
///
/// # Panics
/// When it is not a message of peers.
pub fn with_more_fields(message: &[u8]) -> Vec<u8> {
    let mut value = rmpv::decode::read_value(&mut &*message).expect("the message is MessagePack");
    assert!(add(&mut value) > 0, "it has structs");
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &value).expect("the message can be written");
    bytes
}

/// Adds fields to a value and everything in it, and returns how many.
fn add(value: &mut Value) -> usize {
    match value {
        Value::Array(values) => values.iter_mut().map(add).sum(),
        Value::Map(entries) => {
            // The keys of other maps are the name of a variant, the name of a file, or a
            // number.
            let is_struct = entries.iter().all(|(key, _)| {
                let name = key.as_str().unwrap_or_default();
                name.starts_with(|letter: char| letter.is_ascii_lowercase()) && !name.contains('.')
            });
            let within: usize = entries.iter_mut().map(|(_, value)| add(value)).sum();
            if is_struct {
                let more = Value::Array(vec![1.into(), "more".into()]);
                entries.insert(0, ("of_a_later_version".into(), more));
            }
            within + usize::from(is_struct)
        }
        _ => 0,
    }
}
