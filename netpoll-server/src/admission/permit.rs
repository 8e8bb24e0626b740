//! What counts a listener's connections, and the permit that each of them needs to become one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use netpoll_core::{Address, FilterServer, ListenerInfo, Release, Room};

use super::limits::{Admission, OpenCount};
use super::policy::AcceptLimit;
use crate::service::Service;

/// How many connections a listener has, beside what its event loop counts for all listeners.
#[derive(Debug)]
pub(crate) struct ListenerCount {
    admission: Arc<Admission>,
    listener: Arc<ListenerInfo>,
    filter: Option<Arc<dyn FilterServer>>,
    open: OpenCount,
}

/// A place among the connections, for an accepted socket that is not a connection yet.
#[derive(Debug)]
pub(crate) struct Permit {
    listener: Arc<ListenerCount>,
    redeemed: bool,
    /// The source that it is counted for, where sources are counted. When the permit is redeemed
    /// this is the source of the peer's address, by which the close of the connection is counted.
    source: Option<IpAddr>,
}

impl ListenerCount {
    pub(crate) fn new(
        admission: &Arc<Admission>,
        listener: &Arc<ListenerInfo>,
        service: &Service,
    ) -> Arc<Self> {
        let (admission, listener) = (admission.clone(), listener.clone());
        let (filter, open) = (service.filter.clone(), OpenCount::new(service.max_connections));
        Arc::new(Self { admission, listener, filter, open })
    }

    /// How many sockets may be taken out of the kernel's queue now.
    pub(crate) fn room(&self, now: impl FnOnce() -> Instant) -> Room {
        self.admission.room(&self.open, now)
    }
}

impl Release for ListenerCount {
    fn info(&self) -> &ListenerInfo {
        &self.listener
    }

    fn filter(&self) -> Option<&Arc<dyn FilterServer>> {
        self.filter.as_ref()
    }

    fn release(&self, peer: &Address) {
        self.admission.count_out(&self.open, self.admission.source(peer.ip()));
    }
}

impl Permit {
    /// A permit for a socket that `listener` accepted, or the limit that refuses it. `source` is
    /// the peer's address, if it is known yet.
    pub(crate) fn obtain(
        listener: &Arc<ListenerCount>,
        source: Option<IpAddr>,
        now: impl FnOnce() -> Instant,
    ) -> Result<Self, AcceptLimit> {
        let admission = &listener.admission;
        admission.count_in(&listener.open)?;
        // From here on a drop undoes the counts.
        let mut permit = Self { listener: listener.clone(), redeemed: false, source: None };
        permit.source = admission.count_source(source)?;
        admission.take_token(now)?;
        Ok(permit)
    }

    /// Counts the socket for its source, which became known after the permit was obtained.
    pub(crate) fn count_source(&mut self, source: Option<IpAddr>) -> Result<(), AcceptLimit> {
        self.source = self.listener.admission.count_source(source)?;
        Ok(())
    }

    /// Gives the place to a connection, which returns it with [`Release::release`].
    pub(crate) fn redeem(mut self) -> Arc<dyn Release> {
        self.redeemed = true;
        self.listener.clone()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.redeemed {
            self.listener.admission.count_out(&self.listener.open, self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::super::policy::AdmissionOptions;
    use super::*;
    use crate::sync::lock;

    fn counted(options: AdmissionOptions) -> (Arc<Admission>, Arc<ListenerCount>) {
        let admission = Admission::new(options);
        let listener = listener(&admission, None);
        (admission, listener)
    }

    fn listener(admission: &Arc<Admission>, limit: Option<usize>) -> Arc<ListenerCount> {
        let address = Address::Unnamed;
        let listener = ListenerInfo { index: 0, name: "a listener".into(), address };
        let service = Service { max_connections: limit, ..Service::default() };
        ListenerCount::new(admission, &Arc::new(listener), &service)
    }

    #[test]
    fn permits_count_until_they_are_dropped() {
        let options = AdmissionOptions { connections: Some(2), ..AdmissionOptions::default() };
        let (admission, wide) = counted(options);
        let narrow = listener(&admission, Some(1));
        let now = Instant::now();
        let obtain = |listener| Permit::obtain(listener, None, || now);
        let first = obtain(&narrow).unwrap();
        assert_eq!(obtain(&narrow).unwrap_err(), AcceptLimit::Listener);
        assert_eq!(narrow.room(|| now).count, 0);
        assert_eq!(wide.room(|| now).count, 1, "a refusal must count nothing");
        let second = obtain(&wide).unwrap();
        assert_eq!(obtain(&wide).unwrap_err(), AcceptLimit::Connections);
        drop(first);
        assert_eq!((narrow.room(|| now).count, admission.returned()), (1, 1));
        drop(second);
        assert_eq!(wide.room(|| now).count, 2);
    }

    #[test]
    fn a_source_has_its_own_limit_and_leaves_no_trace() {
        let options = AdmissionOptions { per_source: Some(1), ..AdmissionOptions::default() };
        let (admission, listener) = counted(options);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|it| Some(it.parse().unwrap()));
        let obtain = |source| Permit::obtain(&listener, source, Instant::now);
        let permit = obtain(one).unwrap();
        assert_eq!(obtain(one).unwrap_err(), AcceptLimit::Source);
        let unnamed = [obtain(None).unwrap(), obtain(None).unwrap()];
        drop((permit, unnamed, obtain(other).unwrap()));
        assert!(lock(&admission.sources).is_empty());
        assert_eq!(admission.open.open(), 0);
    }

    #[test]
    fn a_source_is_a_network_and_its_size_an_option() {
        let addresses = |of: [&str; 4]| of.map(|it| Some(it.parse::<IpAddr>().unwrap()));
        let [one, near, far, mapped] =
            addresses(["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "192.0.2.1"]);
        for (prefixes, same) in
            [((32, 64), [true, false]), ((1, 128), [false; 2]), ((32, 1), [true; 2])]
        {
            let per_source = Some(1);
            let options = AdmissionOptions { per_source, prefixes, ..AdmissionOptions::default() };
            options.validate().unwrap();
            let (admission, listener) = counted(options);
            let obtain = |it| Permit::obtain(&listener, it, Instant::now);
            let first = obtain(one).unwrap();
            assert_eq!([near, far].map(|it| obtain(it).is_err()), same, "{prefixes:?}");
            drop((obtain(mapped).unwrap(), first));
            assert!(lock(&admission.sources).is_empty());
        }
        for prefixes in [(0, 64), (33, 64), (32, 0), (32, 129)] {
            let wrong = AdmissionOptions { prefixes, ..AdmissionOptions::default() }.validate();
            assert!(wrong.unwrap_err().to_string().starts_with("source_prefixes"));
        }
    }

    #[test]
    fn a_connection_leaves_the_place_that_its_permit_was_for() {
        let options = AdmissionOptions { per_source: Some(1), ..AdmissionOptions::default() };
        let (admission, listener) = counted(options);
        let peer = Address::from(SocketAddr::from(([192, 0, 2, 1], 80)));
        let obtain = || Permit::obtain(&listener, peer.ip(), Instant::now);
        let place = obtain().unwrap().redeem();
        assert_eq!((obtain().unwrap_err(), admission.returned()), (AcceptLimit::Source, 1));
        place.release(&peer);
        assert_eq!(admission.open.open(), 0);
        drop(obtain().unwrap());
        assert!(lock(&admission.sources).is_empty());
    }

    #[test]
    fn the_rate_allows_a_burst_and_then_a_pace() {
        let options = AdmissionOptions { rate: Some((10, 3)), ..AdmissionOptions::default() };
        let (_, listener) = counted(options);
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let obtain = |at| Permit::obtain(&listener, None, || at);
        let come = |at| (0..9).take_while(|_| obtain(at).is_ok()).count();
        assert_eq!(come(start), 3);
        let room = listener.room(|| after(50));
        let again = room.again.expect("a time");
        assert_eq!(room.count, 0);
        assert!(again > after(99) && again < after(110), "{:?}", again - start);
        assert_eq!((come(after(101)), come(after(250)), come(after(60_000))), (1, 1, 3));
    }
}
