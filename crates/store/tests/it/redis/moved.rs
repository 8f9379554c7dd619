//! Masters that die, and what takes their place.

use throughline_store::Changed;

use crate::servers::{Cluster, Guarded, PATIENCE, eventually, now, store};
use crate::{NOW, get, key, put_new, record};

#[tokio::test]
async fn sentinels_name_another_master() {
    let mut guarded = Guarded::start();
    let store = store(&guarded.url()).await;
    let mut watch = store.watch();
    let epoch = store.epoch().unwrap();
    put_new(&store, key(1), record(1)).await;
    // It is on the replicas: a failover loses what is not.
    guarded.servers[0].must(&["WAIT", "2", &PATIENCE.as_millis().to_string()]);
    guarded.servers[0].kill();
    let start = now();
    eventually("writes to work again", async || store.put_if(key(2), None, record(2), NOW).await.is_ok())
        .await;
    println!("writes worked again {:?} after the master was killed", start.elapsed());
    assert_eq!(get(&store, key(1)).await.unwrap().record, record(1));
    super::recovered(&store).await;
    assert!(store.epoch().unwrap() > epoch);
    while tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap() != Changed::All {}

    // The one that was killed comes back as a replica, and is not written to.
    guarded.servers[0].start_again();
    eventually("the old master to follow", async || {
        guarded.servers[0].info("replication", "role").is_some_and(|role| role == "slave")
    })
    .await;
    put_new(&store, key(3), record(3)).await;
}

#[tokio::test]
async fn a_failover_on_demand_is_followed_although_nothing_fails() {
    let guarded = Guarded::start();
    let store = store(&guarded.url()).await;
    put_new(&store, key(1), record(1)).await;
    guarded.fail_over();
    eventually("a write on the new master", async || {
        let n = key(2);
        store.put_if(n, None, record(2), NOW).await.is_ok()
            && guarded.servers[1..]
                .iter()
                .any(|server| server.info("replication", "role").is_some_and(|role| role == "master"))
    })
    .await;
    super::recovered(&store).await;
    put_new(&store, key(3), record(3)).await;
}

#[tokio::test]
async fn a_cluster_fails_over() {
    let mut cluster = Cluster::start();
    let store = store(&cluster.url()).await;
    let other = crate::servers::store(&cluster.url()).await;
    // In the slots of all masters.
    for n in 0..30 {
        put_new(&store, key(n), record(n)).await;
    }
    for master in &cluster.nodes[..3] {
        master.must(&["WAIT", "1", &PATIENCE.as_millis().to_string()]);
    }
    cluster.nodes[0].kill();
    let start = now();
    for n in 0..30 {
        eventually("every slot to be served", async || {
            store.put_if(key(100 + n), None, record(n), NOW).await.is_ok()
        })
        .await;
    }
    println!("every slot was served again {:?} after a master was killed", start.elapsed());
    for n in 0..30 {
        assert_eq!(get(&store, key(n)).await.unwrap().record, record(n));
    }
    super::recovered(&store).await;
    super::recovered(&other).await;
    let mut watch = other.watch();
    let version = put_new(&store, key(500), record(1)).await;
    while tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap() != Changed::One(key(500), version) {}
    cluster.nodes[0].start_again();
    for n in 0..30 {
        put_new(&store, key(200 + n), record(n)).await;
    }
}

#[tokio::test]
async fn a_frozen_master_of_a_cluster_is_done_without() {
    let cluster = Cluster::start();
    let store = store(&cluster.url()).await;
    for n in 0..30 {
        put_new(&store, key(n), record(n)).await;
    }
    cluster.nodes[1].freeze();
    let start = now();
    for n in 0..30 {
        eventually("every slot to be served", async || {
            store.put_if(key(100 + n), None, record(n), NOW).await.is_ok()
        })
        .await;
    }
    println!("every slot was served again {:?} after a master was frozen", start.elapsed());
    super::recovered(&store).await;
}
