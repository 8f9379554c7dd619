//! Texts that many sessions have in common, kept once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::session::lock;

/// Texts kept; beyond that those go that nobody has any more, and if all are in use, new ones are not shared.
const MAX_TEXTS: usize = 1024;

/// The `initialize` parameters of sessions: clients of one kind send the same.
#[derive(Default)]
pub struct Texts(Mutex<HashSet<Arc<str>>>);

impl Texts {
    /// The text, shared with whoever else has the same.
    pub fn share(&self, text: &str) -> Arc<str> {
        let mut texts = lock(&self.0);
        if let Some(same) = texts.get(text) {
            return Arc::clone(same);
        }
        if texts.len() >= MAX_TEXTS {
            texts.retain(|text| Arc::strong_count(text) > 1);
        }
        let shared: Arc<str> = text.into();
        if texts.len() < MAX_TEXTS {
            texts.insert(Arc::clone(&shared));
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_kept_once_and_the_set_is_bounded() {
        let texts = Texts::default();
        let (one, two) = (texts.share("a"), texts.share("a"));
        assert!(Arc::ptr_eq(&one, &two));
        for n in 0..2 * MAX_TEXTS {
            texts.share(&n.to_string());
        }
        assert!(lock(&texts.0).len() <= MAX_TEXTS);
        assert!(Arc::ptr_eq(&one, &texts.share("a")), "what is in use stays");
    }
}
