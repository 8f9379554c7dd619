//! `cache`: which answers are given again without asking the upstream.

use std::time::Duration;

use super::days;
use super::read::Key;

/// What the gateway keeps of the upstream's lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// `cache.lists`: for how long lists of tools, prompts, resources and templates are kept, whatever the upstream says.
    /// Default (`None`): as long as the upstream says, which servers of 2026-07-28 can (`ttlMs`).
    pub lists: Option<Duration>,
    /// `cache.shared`: whether what `cache.lists` keeps is the same for all callers. Default: no.
    pub shared: bool,
}

pub(super) const CACHE: &[Key<Cache>] = &[
    Key::new("lists", |c, f| {
        let mut lists = Duration::from_secs(60);
        f.duration(&mut lists, Duration::ZERO..=days(1));
        c.lists = Some(lists);
    }),
    Key::new("shared", |c, f| f.flag(&mut c.shared)),
];
