//! The endpoints of a route's upstream: which of them takes what is new, which holds a session, which are well.
//!
//! All cores share it; the connections to an endpoint are each core's own. An upstream of one endpoint is a fleet
//! too, whose only member takes everything and is never taken out.

pub mod health;
pub mod watch;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use throughline_store::Millis;

use super::certificates::Certificates;
use super::destination::Destination;
use crate::config::Resolve;
use crate::session::lock;
use health::{Change, Health};

/// Endpoints of one fleet at most, however many addresses a name has.
pub const MAX_MEMBERS: usize = 256;

/// The endpoints of one route's upstream.
pub struct Fleet {
    configured: Vec<Configured>,
    /// The one endpoint, where there is only one and will be no other.
    only: Option<Arc<Member>>,
    roster: ArcSwap<Roster>,
    /// Held while the roster is replaced.
    changing: Mutex<()>,
    /// Where the choice among equals begins; moves on with each.
    turn: AtomicUsize,
}

/// One URL of the configuration.
struct Configured {
    to: Arc<Destination>,
    /// Whether each of its host's addresses is an endpoint.
    resolves: bool,
}

/// Who belongs to a fleet.
#[derive(Default)]
struct Roster {
    /// Those that take what is new; never empty.
    listed: Vec<Arc<Member>>,
    /// Those that a session is at, by its record, although the last look at its name did not show them: another
    /// replica may have looked later. The next look here decides.
    adopted: Vec<Arc<Member>>,
}

/// One endpoint.
#[derive(Debug)]
pub struct Member {
    /// Its number in this process, never given twice.
    pub id: u64,
    /// What records, logs and metrics call it; see [`Destination::name`].
    pub name: String,
    /// Where it is.
    pub to: Arc<Destination>,
    /// The bridge that stands for it, where it speaks no Streamable HTTP.
    bridged: OnceLock<Arc<Destination>>,
    /// Place of its URL in the configuration.
    of: usize,
    health: Health,
    /// Sessions at it, in this process, those that are being opened included.
    sessions: AtomicUsize,
    /// Requests under way at it, in this process. Not counted where it is the only one.
    in_flight: AtomicUsize,
}

/// What became of a request, as far as it tells whether the endpoint is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was answered.
    Well,
    /// It was not, or by something in front of the endpoint.
    Ill,
    /// No connection was to be had.
    Unreachable,
    /// That does not tell.
    Nothing,
}

impl Member {
    fn new(of: usize, to: Arc<Destination>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Member {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: to.name(),
            to,
            bridged: OnceLock::new(),
            of,
            health: Health::default(),
            sessions: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// Where its requests go: to it, or to the bridge that stands for it.
    pub fn destination(&self) -> &Arc<Destination> {
        self.bridged.get().unwrap_or(&self.to)
    }

    /// Whether a bridge stands for it.
    pub fn is_bridged(&self) -> bool {
        self.bridged.get().is_some()
    }

    /// Lets a bridge stand for it; the first one does.
    pub(super) fn stands_for(&self, bridge: Destination) {
        let _ = self.bridged.set(Arc::new(bridge));
    }

    /// Takes what became of a request into account.
    pub fn learn(&self, told: Told, now: Millis) {
        let change = match told {
            Told::Well => self.health.succeeded(),
            Told::Ill => self.health.failed(false, now),
            Told::Unreachable => self.health.failed(true, now),
            Told::Nothing => Change::None,
        };
        let endpoint = &self.name;
        match change {
            Change::None => {}
            Change::Ejected(pause) => {
                let ms = pause.as_millis();
                tracing::warn!(
                    endpoint,
                    ms,
                    "an upstream endpoint failed repeatedly and is spared for a while"
                );
            }
            Change::Returned => tracing::info!(endpoint, "an upstream endpoint is well again"),
        }
    }

    /// Whether it is to be spared now.
    pub fn is_out(&self, now: Millis) -> bool {
        self.health.is_out(now)
    }

    /// How often it was taken out.
    pub fn ejections(&self) -> u64 {
        self.health.ejections()
    }

    /// How many sessions are at it.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request in.
    pub fn enter(self: &Arc<Self>) -> Flight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Flight(Arc::clone(self))
    }
}

/// A request under way at an endpoint, until it is dropped.
pub struct Flight(Arc<Member>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A session's place at an endpoint. It is counted there until the last copy is dropped.
pub struct Seat {
    /// Where.
    pub member: Arc<Member>,
    /// Among whom.
    pub fleet: Arc<Fleet>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.member.name)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.member.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a request may go.
#[derive(Clone)]
pub enum Place {
    /// To the endpoint that holds its session.
    At(Arc<Seat>),
    /// To any: nothing holds it.
    Anywhere(Arc<Fleet>),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Place {
    /// Among whom.
    pub fn fleet(&self) -> &Arc<Fleet> {
        match self {
            Place::At(seat) => &seat.fleet,
            Place::Anywhere(fleet) => fleet,
        }
    }

    /// The endpoint that holds the session; empty where none does.
    pub fn name(&self) -> &str {
        match self {
            Place::At(seat) => &seat.member.name,
            Place::Anywhere(_) => "",
        }
    }
}

impl Fleet {
    /// Of these endpoints, all of them well. `start` is random: where the choice among equals begins.
    pub fn new(destinations: Vec<Arc<Destination>>, resolve: Resolve, start: u8) -> Arc<Self> {
        let configured = destinations.into_iter().map(|to| {
            let resolves = resolve == Resolve::All && to.host.parse::<IpAddr>().is_err();
            Configured { to, resolves }
        });
        let configured: Vec<_> = configured.collect();
        // Until its addresses are known, a name is an endpoint itself.
        let listed = configured.iter().enumerate().map(|(of, url)| Member::new(of, Arc::clone(&url.to)));
        let roster = Roster { listed: listed.collect(), adopted: Vec::new() };
        let only = match &configured[..] {
            [one] if !one.resolves => roster.listed.first().cloned(),
            _ => None,
        };
        Arc::new(Fleet {
            configured,
            only,
            roster: ArcSwap::from_pointee(roster),
            changing: Mutex::default(),
            turn: AtomicUsize::new(usize::from(start)),
        })
    }

    /// Its one endpoint, where there is only one and will be no other.
    pub fn only(&self) -> Option<&Arc<Member>> {
        self.only.as_ref()
    }

    /// Whether requests carry something of the client's that the upstream may ask for.
    pub fn forwards(&self) -> bool {
        self.configured.iter().any(|url| url.to.forwards)
    }

    /// What its encrypted connections have in common, if it has any.
    pub fn certificates(&self) -> Option<&Arc<Certificates>> {
        self.configured.iter().find_map(|url| url.to.tls.as_ref().map(|tls| &tls.certificates))
    }

    /// Those that take what is new.
    pub fn listed(&self) -> Vec<Arc<Member>> {
        self.roster.load().listed.clone()
    }

    /// Whether what is at this endpoint is to go on there: it belongs to the fleet, and is not to be spared. A session
    /// that moves loses what the server kept of it, so one attempt more is worth while where no connection was to be
    /// had, and where no other endpoint is well.
    pub fn keeps(&self, member: &Member, now: Millis) -> bool {
        let roster = self.roster.load();
        let belongs = roster.listed.iter().chain(&roster.adopted).any(|known| known.id == member.id);
        let is_spared = member.is_out(now) && !member.health.is_unreachable();
        belongs && (!is_spared || roster.listed.iter().all(|other| other.is_out(now)))
    }

    /// A place for a new session: where the fewest are. None when all have been `tried`.
    pub fn seat(self: &Arc<Self>, now: Millis, tried: &[u64]) -> Option<Arc<Seat>> {
        let member = self.candidates(now, tried, Member::sessions).into_iter().next()?;
        Some(self.seat_at(member))
    }

    fn seat_at(self: &Arc<Self>, member: Arc<Member>) -> Arc<Seat> {
        member.sessions.fetch_add(1, Ordering::Relaxed);
        Arc::new(Seat { member, fleet: Arc::clone(self) })
    }

    /// The place of a session that a record names; None when the endpoint does not belong to the fleet any more.
    pub fn seat_of(self: &Arc<Self>, name: &str) -> Option<Arc<Seat>> {
        if let Some(only) = &self.only {
            // It may be the same under another name. If it is not, it says so.
            return Some(self.seat_at(Arc::clone(only)));
        }
        let roster = self.roster.load_full();
        let known = match name {
            // Written when there was one endpoint, which did not need a name.
            "" => roster.listed.first(),
            name => roster.listed.iter().chain(&roster.adopted).find(|member| member.name == name),
        };
        let member = known.cloned().or_else(|| self.adopt(name))?;
        Some(self.seat_at(member))
    }

    /// An address of one of the names, although it was not seen here.
    fn adopt(&self, name: &str) -> Option<Arc<Member>> {
        let (place, address) = name.split_once('#')?;
        let address: IpAddr = address.parse().ok()?;
        let of = self.configured.iter().position(|url| url.resolves && url.to.name() == place)?;
        let _changing = lock(&self.changing);
        let roster = self.roster.load_full();
        if let Some(known) = roster.listed.iter().chain(&roster.adopted).find(|member| member.name == name) {
            return Some(Arc::clone(known));
        }
        if roster.listed.len() + roster.adopted.len() >= MAX_MEMBERS {
            return None;
        }
        let member = Member::new(of, Arc::new(self.configured[of].to.at(address)));
        let mut adopted = roster.adopted.clone();
        adopted.push(Arc::clone(&member));
        self.roster.store(Arc::new(Roster { listed: roster.listed.clone(), adopted }));
        Some(member)
    }

    /// Takes over what the name of this URL stands for now. Addresses that stay keep what is known of them.
    fn resolved(&self, of: usize, addresses: &[IpAddr]) {
        let _changing = lock(&self.changing);
        let before = self.roster.load_full();
        let known = || before.listed.iter().chain(&before.adopted).filter(|member| member.of == of);
        let mut listed: Vec<_> = before.listed.iter().filter(|member| member.of != of).cloned().collect();
        let room = MAX_MEMBERS.saturating_sub(listed.len());
        if addresses.len() > room {
            let name = self.configured[of].to.name();
            tracing::warn!(name, addresses = addresses.len(), used = room, "a name has too many addresses");
        }
        listed.extend(addresses.iter().take(room).map(|address| {
            let present = known().find(|member| member.to.address == Some(*address));
            present.cloned().unwrap_or_else(|| Member::new(of, Arc::new(self.configured[of].to.at(*address))))
        }));
        let has = |members: &[Arc<Member>], id| members.iter().any(|member| member.id == id);
        for endpoint in listed.iter().filter(|member| !has(&before.listed, member.id)) {
            tracing::info!(endpoint = endpoint.name, "an upstream endpoint was added");
        }
        // A name that stood for itself until it was first looked up is not worth a word.
        let is_missed = |member: &&Arc<Member>| member.to.address.is_some() || member.sessions() > 0;
        for endpoint in known().filter(|member| !has(&listed, member.id)).filter(is_missed) {
            tracing::info!(endpoint = endpoint.name, "an upstream endpoint is gone; its sessions move");
        }
        let adopted = before.adopted.iter().filter(|member| member.of != of).cloned().collect();
        self.roster.store(Arc::new(Roster { listed, adopted }));
    }

    /// Those that something new may go to, the one with the least of `load` first: all that are well; where none is,
    /// the one that was found ill the longest ago.
    pub fn candidates(&self, now: Millis, tried: &[u64], load: fn(&Member) -> usize) -> Vec<Arc<Member>> {
        let mut rest = self.listed();
        rest.retain(|member| !tried.contains(&member.id));
        let (mut ill, mut well): (Vec<_>, Vec<_>) = rest.into_iter().partition(|member| member.is_out(now));
        if well.is_empty() {
            ill.sort_by_key(|member| member.health.ill_since());
            ill.truncate(1);
            return ill;
        }
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % well.len();
        well.rotate_left(start);
        well.sort_by_cached_key(|member| load(member));
        well
    }

    /// The same for a request that no session holds.
    pub fn idlest(&self, now: Millis, tried: &[u64]) -> Option<Arc<Member>> {
        self.candidates(now, tried, Member::in_flight).into_iter().next()
    }
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::upstream::destination;

    const NOW: Millis = Millis(1_000_000);

    fn fleet(urls: &[&str], resolve: Resolve) -> Arc<Fleet> {
        let config = Config::for_upstreams(urls).unwrap();
        Fleet::new(destination::of_routes(&config).unwrap().remove(0), resolve, 0)
    }

    fn three() -> Arc<Fleet> {
        fleet(&["http://a/mcp?key=secret", "http://b/mcp", "http://c/mcp"], Resolve::One)
    }

    fn names(members: &[Arc<Member>]) -> Vec<&str> {
        members.iter().map(|member| member.name.as_str()).collect()
    }

    fn ips<const N: usize>(texts: [&str; N]) -> [IpAddr; N] {
        texts.map(|text| text.parse().unwrap())
    }

    fn eject(member: &Member, now: Millis) {
        (0..health::EJECT_AFTER).for_each(|_| member.learn(Told::Ill, now));
        assert!(member.is_out(now));
    }

    #[test]
    fn new_sessions_go_where_the_fewest_are() {
        let fleet = three();
        let mut seats: Vec<_> = (0..9).map(|_| fleet.seat(NOW, &[]).unwrap()).collect();
        assert!(fleet.listed().iter().all(|member| member.sessions() == 3));
        seats.retain(|seat| seat.member.name != "http://b/mcp");
        assert_eq!(fleet.listed().iter().map(|member| member.sessions()).collect::<Vec<_>>(), [3, 0, 3]);
        for _ in 0..3 {
            seats.push(fleet.seat(NOW, &[]).unwrap());
            assert_eq!(seats.last().unwrap().member.name, "http://b/mcp");
        }
    }

    #[test]
    fn equals_take_turns() {
        let fleet = three();
        let chosen: std::collections::HashSet<_> =
            (0..3).map(|_| fleet.idlest(NOW, &[]).unwrap().id).collect();
        assert_eq!(chosen.len(), 3);
        let busy = fleet.listed().remove(0);
        let flight = busy.enter();
        assert!((0..9).all(|_| fleet.idlest(NOW, &[]).unwrap().id != busy.id));
        drop(flight);
        assert!((0..9).any(|_| fleet.idlest(NOW, &[]).unwrap().id == busy.id));
    }

    #[test]
    fn what_fails_is_spared_but_never_all() {
        let fleet = three();
        let members = fleet.listed();
        eject(&members[0], NOW);
        eject(&members[1], Millis(NOW.0 + 1));
        assert_eq!(names(&fleet.candidates(NOW, &[], Member::sessions)), ["http://c/mcp"]);
        assert!(!fleet.keeps(&members[0], NOW) && fleet.keeps(&members[2], NOW));
        members[1].learn(Told::Unreachable, Millis(NOW.0 + 1));
        assert!(fleet.keeps(&members[1], NOW), "it may be back");
        eject(&members[2], Millis(NOW.0 + 2));
        assert!(members.iter().all(|member| fleet.keeps(member, NOW)));
        // All are out: the one that was found ill the longest ago, until it is found ill again.
        assert_eq!(names(&fleet.candidates(NOW, &[], Member::sessions)), ["http://a/mcp"]);
        members[0].learn(Told::Ill, Millis(NOW.0 + 3));
        assert_eq!(names(&fleet.candidates(NOW, &[], Member::sessions)), ["http://b/mcp"]);
        let tried = [members[1].id, members[2].id];
        assert_eq!(names(&fleet.candidates(NOW, &tried, Member::sessions)), ["http://a/mcp"]);
        assert!(fleet.seat(NOW, &members.iter().map(|member| member.id).collect::<Vec<_>>()).is_none());
        members[1].learn(Told::Well, NOW);
        assert_eq!(names(&fleet.candidates(NOW, &[], Member::sessions)), ["http://b/mcp"]);
    }

    #[test]
    fn a_record_names_its_endpoint_without_the_query() {
        let fleet = three();
        assert_eq!(fleet.seat_of("http://a/mcp").unwrap().member.name, "http://a/mcp");
        assert_eq!(fleet.seat_of("").unwrap().member.name, "http://a/mcp");
        assert!(fleet.seat_of("http://gone/mcp").is_none());
        // Nothing is looked up here, so that an address in a record is none of ours.
        assert!(fleet.seat_of("http://a/mcp#10.0.0.1").is_none());
        assert!(fleet.only().is_none());
        let alone = self::fleet(&["http://a/mcp"], Resolve::One);
        assert!(alone.only().is_some());
        assert_eq!(alone.seat_of("http://a-by-another-name/mcp").unwrap().member.name, "http://a/mcp");
    }

    #[test]
    fn a_name_is_as_many_endpoints_as_it_has_addresses() {
        let fleet = fleet(&["http://n:1/mcp", "http://b/mcp"], Resolve::All);
        assert_eq!(names(&fleet.listed()), ["http://n:1/mcp", "http://b/mcp"]);
        fleet.resolved(0, &ips(["10.0.0.1", "10.0.0.2"]));
        let (first, second) = ("http://n:1/mcp#10.0.0.1", "http://n:1/mcp#10.0.0.2");
        assert_eq!(names(&fleet.listed()), ["http://b/mcp", first, second]);
        let stays = fleet.seat_of(second).unwrap();
        let goes = fleet.seat_of(first).unwrap();
        fleet.resolved(0, &ips(["10.0.0.2", "fd00::3"]));
        assert_eq!(names(&fleet.listed()), ["http://b/mcp", second, "http://n:1/mcp#fd00::3"]);
        assert!(fleet.keeps(&stays.member, NOW) && !fleet.keeps(&goes.member, NOW));
        assert_eq!(fleet.seat_of(second).unwrap().member.id, stays.member.id);
    }

    #[test]
    fn an_address_that_only_a_record_names_keeps_its_sessions_until_the_next_look() {
        let fleet = fleet(&["http://n:1/mcp"], Resolve::All);
        fleet.resolved(0, &ips(["10.0.0.1"]));
        let (seen, other) = ("http://n:1/mcp#10.0.0.2", "http://n:1/mcp#10.0.0.3");
        let seat = fleet.seat_of(seen).unwrap();
        let gone = fleet.seat_of(other).unwrap();
        assert!(fleet.keeps(&seat.member, NOW) && fleet.keeps(&gone.member, NOW));
        assert_eq!(names(&fleet.listed()), ["http://n:1/mcp#10.0.0.1"], "it takes nothing new");
        assert_eq!(fleet.seat_of(seen).unwrap().member.id, seat.member.id);
        fleet.resolved(0, &ips(["10.0.0.1", "10.0.0.2"]));
        assert!(fleet.keeps(&seat.member, NOW) && !fleet.keeps(&gone.member, NOW));
        assert_eq!(fleet.seat_of(seen).unwrap().member.id, seat.member.id);
        assert!(
            fleet.seat_of("http://n:1/mcp#x").is_none() && fleet.seat_of("http://m/mcp#10.0.0.1").is_none()
        );
    }

    #[test]
    fn a_name_with_too_many_addresses_is_cut() {
        let fleet = fleet(&["http://n/mcp"], Resolve::All);
        let many: Vec<_> =
            (0..2 * MAX_MEMBERS).map(|n| IpAddr::from([10, 0, (n / 256) as u8, n as u8])).collect();
        fleet.resolved(0, &many);
        assert_eq!(fleet.listed().len(), MAX_MEMBERS);
        assert!(fleet.seat_of("http://n/mcp#10.9.9.9").is_none());
    }
}
