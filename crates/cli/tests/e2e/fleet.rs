//! Several servers behind one gateway: each session is with one of them, and moves when that one is killed.

use serde_json::json;

use crate::harness::{Gateway, Mcp, Upstream};

#[test]
fn sessions_move_when_one_of_two_servers_is_killed() {
    for make in [Upstream::rmcp as fn() -> Upstream, Upstream::python1] {
        let (mut first, second) = (make(), make());
        let mut gateway = Gateway::start(&first.url(), &[&second.url()]);
        let clients: Vec<_> = (0..6).map(|_| Mcp::connected(gateway.url())).collect();
        let counts = |clients: &[Mcp]| clients.iter().map(Mcp::increment).collect::<Vec<_>>();
        let of = |count: i64, counts: &[i64]| counts.iter().filter(|found| **found == count).count();
        assert_eq!(counts(&clients), [1; 6]);
        gateway.restart();
        assert_eq!(counts(&clients), [2; 6], "each is still with its server");

        first.kill9();
        let after = counts(&clients);
        assert_eq!((of(1, &after), of(3, &after)), (3, 3), "{after:?}");
        // Two calls of each of its own three, then one of all six.
        assert_eq!(clients[0].call("total", json!({})), json!({"total": 12}), "each call was executed once");

        first.start_again();
        let after = counts(&clients);
        assert_eq!((of(2, &after), of(4, &after)), (3, 3), "{after:?}");
        assert_eq!(Mcp::connected(gateway.url()).increment(), 1);
    }
}
