//! The capabilities of a client as bits, so that they fit into a sealed session id.
//!
//! A replica that rebuilds a session from its id alone knows of the client only what these bits keep:
//! `experimental`, `extensions` and unknown members are not among it.

use serde_json::{Map, Value, json};

/// A set of client capabilities.
///
/// Specification 2025-11-25, schema `ClientCapabilities`. A sub-capability always implies its parent, and a
/// bare `"elicitation": {}` means form elicitation, so one meaning has one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u16);

impl Capabilities {
    /// `roots`
    pub const ROOTS: Self = Self(1);
    /// `roots.listChanged`
    pub const ROOTS_LIST_CHANGED: Self = Self(1 << 1 | Self::ROOTS.0);
    /// `sampling`
    pub const SAMPLING: Self = Self(1 << 2);
    /// `sampling.context`
    pub const SAMPLING_CONTEXT: Self = Self(1 << 3 | Self::SAMPLING.0);
    /// `sampling.tools`
    pub const SAMPLING_TOOLS: Self = Self(1 << 4 | Self::SAMPLING.0);
    /// `elicitation.form`, or a bare `elicitation`
    pub const ELICITATION_FORM: Self = Self(1 << 5);
    /// `elicitation.url`
    pub const ELICITATION_URL: Self = Self(1 << 6);
    /// `tasks`
    pub const TASKS: Self = Self(1 << 7);
    /// `tasks.list`
    pub const TASKS_LIST: Self = Self(1 << 8 | Self::TASKS.0);
    /// `tasks.cancel`
    pub const TASKS_CANCEL: Self = Self(1 << 9 | Self::TASKS.0);
    /// `tasks.requests.sampling.createMessage`
    pub const TASKS_SAMPLING: Self = Self(1 << 10 | Self::TASKS.0);
    /// `tasks.requests.elicitation.create`
    pub const TASKS_ELICITATION: Self = Self(1 << 11 | Self::TASKS.0);

    const ALL: [Self; 12] = [
        Self::ROOTS,
        Self::ROOTS_LIST_CHANGED,
        Self::SAMPLING,
        Self::SAMPLING_CONTEXT,
        Self::SAMPLING_TOOLS,
        Self::ELICITATION_FORM,
        Self::ELICITATION_URL,
        Self::TASKS,
        Self::TASKS_LIST,
        Self::TASKS_CANCEL,
        Self::TASKS_SAMPLING,
        Self::TASKS_ELICITATION,
    ];

    /// Reads a capabilities object. Whatever is not one declares nothing.
    #[must_use]
    pub fn from_json(raw: &[u8]) -> Self {
        let Ok(root) = serde_json::from_slice::<Value>(raw) else { return Self::default() };
        let has = |path: &str| root.pointer(path).is_some_and(Value::is_object);
        let mut set = Self::default();
        for (path, capability) in [
            ("/roots", Self::ROOTS),
            ("/sampling", Self::SAMPLING),
            ("/sampling/context", Self::SAMPLING_CONTEXT),
            ("/sampling/tools", Self::SAMPLING_TOOLS),
            ("/elicitation/form", Self::ELICITATION_FORM),
            ("/elicitation/url", Self::ELICITATION_URL),
            ("/tasks", Self::TASKS),
            ("/tasks/list", Self::TASKS_LIST),
            ("/tasks/cancel", Self::TASKS_CANCEL),
            ("/tasks/requests/sampling/createMessage", Self::TASKS_SAMPLING),
            ("/tasks/requests/elicitation/create", Self::TASKS_ELICITATION),
        ] {
            if has(path) {
                set = set.with(capability);
            }
        }
        if has("/roots") && root.pointer("/roots/listChanged") == Some(&Value::Bool(true)) {
            set = set.with(Self::ROOTS_LIST_CHANGED);
        }
        if has("/elicitation") && !set.contains(Self::ELICITATION_URL) {
            set = set.with(Self::ELICITATION_FORM);
        }
        set
    }

    /// A capabilities object that a server of any legacy revision accepts.
    #[must_use]
    pub fn to_json(self) -> String {
        let empty = || Value::Object(Map::new());
        let mut root = Map::new();
        let mut put = |capability: Self, path: &[&str], value: Value| {
            if self.contains(capability) {
                insert(&mut root, path, value);
            }
        };
        put(Self::ROOTS, &["roots"], empty());
        put(Self::ROOTS_LIST_CHANGED, &["roots", "listChanged"], json!(true));
        put(Self::SAMPLING, &["sampling"], empty());
        put(Self::SAMPLING_CONTEXT, &["sampling", "context"], empty());
        put(Self::SAMPLING_TOOLS, &["sampling", "tools"], empty());
        // Form alone is said as the bare object, which 2025-06-18 servers know as well.
        put(Self::ELICITATION_FORM, &["elicitation"], empty());
        if self.contains(Self::ELICITATION_URL) {
            put(Self::ELICITATION_FORM, &["elicitation", "form"], empty());
        }
        put(Self::ELICITATION_URL, &["elicitation", "url"], empty());
        put(Self::TASKS, &["tasks"], empty());
        put(Self::TASKS_LIST, &["tasks", "list"], empty());
        put(Self::TASKS_CANCEL, &["tasks", "cancel"], empty());
        put(Self::TASKS_SAMPLING, &["tasks", "requests", "sampling", "createMessage"], empty());
        put(Self::TASKS_ELICITATION, &["tasks", "requests", "elicitation", "create"], empty());
        Value::Object(root).to_string()
    }

    /// Whether nothing is declared.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether everything in `other` is declared.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set and `other` together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits, for sealed ids and records.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The set with these bits. Bits without a meaning are dropped, missing parents are added.
    #[must_use]
    pub fn from_bits(bits: u16) -> Self {
        // The highest bit of a capability is its own; the lower ones are its parent's.
        let own = |capability: &&Self| bits & (1 << (15 - capability.0.leading_zeros())) != 0;
        Self::ALL.iter().filter(own).fold(Self::default(), |set, capability| set.with(*capability))
    }
}

/// Puts `value` at `path`, making the objects on the way.
fn insert(object: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => {
            object.entry(*last).or_insert(value);
        }
        [first, rest @ ..] => {
            let child = object.entry(*first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(child) = child {
                insert(child, rest, value);
            }
        }
    }
}
