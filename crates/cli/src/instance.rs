//! Which instance answered, where an answer says so.

use std::collections::BTreeMap;

use serde_json::Value;

/// Instances that are counted one by one; what is beyond counts as one.
const MAX_NAMES: usize = 64;
/// Longest name that is kept, in characters.
const MAX_NAME: usize = 64;
const OTHERS: &str = "(others)";

/// The instance that a tool's result names in its structured content.
pub(crate) fn of_result(result: &Value) -> Option<&str> {
    let structured = &result["structuredContent"];
    ["instance", "instance_id", "instanceId"].iter().find_map(|name| structured[name].as_str())
}

/// How many answers each of them gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shares(BTreeMap<String, u64>);

impl Shares {
    /// One more answer.
    pub(crate) fn count(&mut self, name: &str) {
        self.add(name, 1);
    }

    /// All of another's.
    pub(crate) fn merge(&mut self, other: &Shares) {
        for (name, count) in &other.0 {
            self.add(name, *count);
        }
    }

    fn add(&mut self, name: &str, count: u64) {
        if let Some(known) = self.0.get_mut(name) {
            *known += count;
            return;
        }
        let name =
            if self.0.len() < MAX_NAMES { name.chars().take(MAX_NAME).collect() } else { OTHERS.to_owned() };
        *self.0.entry(name).or_default() += count;
    }

    /// By name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (name.as_str(), *count))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All answers that named one.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// In one line.
    pub(crate) fn in_words(&self) -> String {
        self.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_instance_is_where_results_name_it() {
        assert_eq!(of_result(&json!({"structuredContent": {"instance": "a"}})), Some("a"));
        assert_eq!(of_result(&json!({"structuredContent": {"instance_id": "b"}})), Some("b"));
        assert_eq!(of_result(&json!({"structuredContent": {"value": 1}})), None);
    }

    #[test]
    fn names_have_a_bound() {
        let mut shares = Shares::default();
        for name in 0..100 {
            shares.count(&name.to_string());
        }
        assert_eq!((shares.len(), shares.total()), (MAX_NAMES + 1, 100));
    }
}
