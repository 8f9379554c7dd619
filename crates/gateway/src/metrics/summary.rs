//! The counts of all cores added up, for people.

use std::sync::Arc;

use super::{Metrics, RouteCounts, Shard, sum};
use crate::session::lock;

/// What has been counted since the start, and what is under way.
pub struct Summary {
    /// On each route, in the order of the configuration.
    pub routes: Vec<RouteSummary>,
    /// Requests that are being answered.
    pub in_flight: u64,
    /// Connections of clients that are open.
    pub connections: u64,
    refused: u64,
}

/// The same of one route.
pub struct RouteSummary {
    /// Requests answered.
    pub requests: u64,
    /// Lost upstream sessions that were opened again.
    pub restored: u64,
    /// And those that could not be.
    pub not_restored: u64,
}

impl Summary {
    /// Requests answered on all routes, and those that were refused before a route was found.
    pub fn requests(&self) -> u64 {
        self.refused + self.routes.iter().map(|route| route.requests).sum::<u64>()
    }
}

impl Metrics {
    /// Adds everything up.
    pub fn summary(&self) -> Summary {
        let shards = lock(&self.shards).clone();
        let routes = shards.first().map_or(0, |shard| shard.routes.len());
        Summary {
            routes: (0..routes).map(|index| of_route(&shards, index)).collect(),
            in_flight: sum(&shards, |shard| &shard.in_flight),
            connections: sum(&shards, |shard| &shard.connections),
            refused: shards.iter().flat_map(|shard| &shard.refused).map(super::Count::get).sum(),
        }
    }
}

fn of_route(shards: &[Arc<Shard>], index: usize) -> RouteSummary {
    let total = |of: fn(&RouteCounts) -> u64| shards.iter().map(|shard| of(&shard.routes[index])).sum();
    RouteSummary {
        requests: total(|route| route.requests.iter().map(super::Count::get).sum()),
        restored: total(|route| route.recoveries.iter().map(|count| count[0].get()).sum()),
        not_restored: total(|route| route.recoveries.iter().map(|count| count[1].get()).sum()),
    }
}
