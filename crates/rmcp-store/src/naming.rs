//! What a session is called in the store: digests, since its id is all that a client needs to be let in.

use aws_lc_rs::digest::{Context, SHA256};
use throughline_store::RecordKey;

/// A session's name in the store: together, the SHA-256 of its server's name and its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    /// The first half, under which the record stands.
    pub(crate) key: RecordKey,
    /// The second half, which the record holds as its principal: whoever knows the id.
    pub(crate) rest: [u8; 16],
}

/// Names the sessions of one server.
#[derive(Clone)]
pub(crate) struct Naming {
    /// Has seen the server's name.
    begun: Context,
    /// What the records have as their route.
    pub(crate) route: [u8; 8],
}

impl Naming {
    pub(crate) fn new(server: &str) -> Naming {
        let mut begun = Context::new(&SHA256);
        begun.update(b"throughline-rmcp 1\0");
        // With its length, so that no name and id together read like another pair.
        begun.update(&(server.len() as u64).to_be_bytes());
        begun.update(server.as_bytes());
        let [route, ..] = halves::<8>(begun.clone());
        Naming { begun, route }
    }

    pub(crate) fn name(&self, session_id: &str) -> Name {
        let mut context = self.begun.clone();
        context.update(b"\0id\0");
        context.update(session_id.as_bytes());
        let [key, rest] = halves(context);
        Name { key: RecordKey(key), rest }
    }
}

/// The digest's first two pieces of `N` bytes.
fn halves<const N: usize>(context: Context) -> [[u8; N]; 2] {
    let digest = context.finish();
    let mut pieces = digest.as_ref().chunks_exact(N);
    [(); 2].map(|()| {
        let mut piece = [0; N];
        if let Some(bytes) = pieces.next() {
            piece.copy_from_slice(bytes);
        }
        piece
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_server_and_id() {
        let name = |server, id| Naming::new(server).name(id);
        let one = name("a", "bc");
        assert_eq!((one.key, one.rest), (name("a", "bc").key, name("a", "bc").rest));
        assert_ne!(one.key, RecordKey(one.rest));
        for (server, id) in [("a", "bd"), ("ab", "c"), ("", "abc"), ("b", "bc")] {
            assert_ne!(name(server, id).key, one.key, "{server:?} {id:?}");
            assert_ne!(name(server, id).rest, one.rest, "{server:?} {id:?}");
        }
        assert_ne!(Naming::new("a").route, Naming::new("b").route);
    }

    /// Records of earlier releases are found by it.
    #[test]
    fn names_stay_what_they_are() {
        let name = Naming::new("mcp").name("3f0e5a52-6a2e-4f0b-8d0c-0b3a7b0f6f11");
        assert_eq!(name.key.to_string(), "c8009d3426475838fc8383d50efd2f9e");
    }
}
