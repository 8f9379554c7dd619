//! Changing parts of a body and keeping every other byte.
//!
//! An [`Edit`] names a range of the body and what stands there instead. Edits are gathered from
//! [envelope](crate::envelope) spans and applied together by [`splice`], so that all spans refer to the same,
//! unchanged body.

use std::borrow::Cow;

use crate::envelope::{EnvelopeError, Member, Span, each_member, member};
use crate::jsonrpc::quoted;

/// One replacement in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit<'a> {
    /// The bytes to replace; an empty span inserts before the byte at its position.
    pub at: Span,
    /// What stands there afterwards.
    pub with: Cow<'a, [u8]>,
}

impl<'a> Edit<'a> {
    /// Replaces the bytes at `at` by `with`, which is copied only when spliced in.
    pub fn replace(at: Span, with: &'a [u8]) -> Self {
        Self { at, with: Cow::Borrowed(with) }
    }
}

/// The body with the edits applied; every other byte is kept.
///
/// Edits may come in any order and are sorted here. Insertions at one position keep the order in which they
/// were given, and stand before a replacement that begins there.
///
/// Edits must lie within the body and must not overlap. One that does not is a bug of the caller: it panics
/// where debug assertions are on, and is left out otherwise.
pub fn splice(body: &[u8], edits: &mut [Edit<'_>]) -> Vec<u8> {
    edits.sort_by_key(|edit| (edit.at.start, edit.at.end));
    let added: usize = edits.iter().map(|edit| edit.with.len()).sum();
    let mut spliced = Vec::with_capacity(body.len() + added);
    let mut kept_up_to = 0;
    for Edit { at, with } in edits {
        let fits = kept_up_to <= at.start && at.start <= at.end && at.end <= body.len();
        debug_assert!(fits, "edit at {at:?} overlaps another or leaves the body");
        if fits {
            spliced.extend_from_slice(&body[kept_up_to..at.start]);
            spliced.extend_from_slice(with);
            kept_up_to = at.end;
        }
    }
    spliced.extend_from_slice(&body[kept_up_to..]);
    spliced
}

/// The edit that sets member `name` of the object at `object` to the raw JSON `value`: it replaces the value
/// that is there, or inserts the member as the first.
///
/// For several changes to one object use [`edit_members`]: the commas of each depend on the others.
///
/// # Errors
///
/// As for [`member`]; offsets in errors are relative to the object.
pub fn set_member<'a>(
    body: &[u8],
    object: &Span,
    name: &str,
    value: &'a [u8],
) -> Result<Edit<'a>, EnvelopeError> {
    let slice = &body[object.clone()];
    if let Some(old) = member(slice, name)? {
        return Ok(Edit::replace(object.start + old.start..object.start + old.end, value));
    }
    let mut is_empty = true;
    each_member(slice, |_| is_empty = false)?;
    Ok(insert_first(object, slice, &[(name, value)], is_empty))
}

/// The edit that removes member `name` of the object at `object`, with its comma; `None` when there is no
/// such member.
///
/// For several changes to one object use [`edit_members`].
///
/// # Errors
///
/// As for [`member`]; offsets in errors are relative to the object.
pub fn remove_member(body: &[u8], object: &Span, name: &str) -> Result<Option<Edit<'static>>, EnvelopeError> {
    let mut edits = edit_members(body, object, &[(name, None)])?;
    Ok(edits.pop())
}

/// The edits that make several changes to the members of the object at `object`, with the right commas: each
/// change sets a member to raw JSON, or removes it (`None`) if it is there. New members become the first
/// ones, in the order given. No name may be given twice.
///
/// # Errors
///
/// As for [`member`], for each of the names; offsets in errors are relative to the object.
pub fn edit_members<'a>(
    body: &[u8],
    object: &Span,
    changes: &[(&str, Option<&'a [u8]>)],
) -> Result<Vec<Edit<'a>>, EnvelopeError> {
    let slice = &body[object.clone()];
    let mut members = Vec::new();
    each_member(slice, |member| members.push(member))?;

    let mut edits = Vec::new();
    let mut added = Vec::new();
    let mut removed = vec![false; members.len()];
    for (name, value) in changes {
        match (position(slice, &members, name)?, value) {
            (Some(index), Some(value)) => edits.push(Edit::replace(members[index].value.clone(), value)),
            (Some(index), None) => removed[index] = true,
            (None, Some(value)) => added.push((*name, *value)),
            (None, None) => {}
        }
    }
    edits.extend(removals(&members, &removed));
    for edit in &mut edits {
        edit.at = object.start + edit.at.start..object.start + edit.at.end;
    }
    if !added.is_empty() {
        let none_left = removed.iter().all(|removed| *removed);
        edits.push(insert_first(object, slice, &added, none_left));
    }
    Ok(edits)
}

/// Index of the member with this name.
fn position(object: &[u8], members: &[Member], name: &str) -> Result<Option<usize>, EnvelopeError> {
    let named = |member: &Member| member.name(object).as_deref() == Some(name.as_bytes());
    let first = members.iter().position(named);
    match first {
        Some(index) if members[index + 1..].iter().any(named) => Err(EnvelopeError::duplicate(name)),
        _ => Ok(first),
    }
}

/// The edits that take the marked members out. A member goes up to the next one's name; those at the end go
/// together, from the value before them, since the comma before them has to go as well.
fn removals(members: &[Member], removed: &[bool]) -> Vec<Edit<'static>> {
    let kept = removed.iter().rposition(|removed| !removed).map_or(0, |last| last + 1);
    let mut edits = Vec::new();
    for index in (0..kept).filter(|index| removed[*index]) {
        edits.push(members[index].key.start..members[index + 1].key.start);
    }
    if let (Some(first), Some(last)) = (members.get(kept), members.last()) {
        let start = if kept > 0 { members[kept - 1].value.end } else { first.key.start };
        edits.push(start..last.value.end);
    }
    edits.into_iter().map(|at| Edit { at, with: Cow::Borrowed(&[]) }).collect()
}

/// The insertion of members behind the opening brace of the object at `object`, whose bytes `slice` are.
fn insert_first(object: &Span, slice: &[u8], added: &[(&str, &[u8])], becomes_only: bool) -> Edit<'static> {
    let mut text = Vec::new();
    for (index, (name, value)) in added.iter().enumerate() {
        text.extend_from_slice(quoted(name).as_bytes());
        text.push(b':');
        text.extend_from_slice(value);
        if index + 1 < added.len() || !becomes_only {
            text.push(b',');
        }
    }
    // White space may precede the brace when the span is not an envelope's own.
    let brace = slice.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let at = object.start + brace + 1;
    Edit { at: at..at, with: Cow::Owned(text) }
}
