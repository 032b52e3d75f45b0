//! Counting connections by the address that they come from.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::warn;

/// Open connections by address, with the bound on each.
#[derive(Debug)]
pub(crate) struct AddressCounts {
    most: usize,
    open: Mutex<HashMap<IpAddr, OpenConnections>>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    count: usize,
    /// The log has said that this address is at its bound: once is enough.
    warned: bool,
}

/// One connection's place among those of its address; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct AddressPlace {
    counts: Arc<AddressCounts>,
    address: IpAddr,
}

impl AddressCounts {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// A place for one more connection from `address`; none if it has as many as it may.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<AddressPlace> {
        let address = counted_as(address);
        let mut open = self.open.lock();
        let connections = open.entry(address).or_default();
        if connections.count < self.most {
            connections.count += 1;
            return Some(AddressPlace { counts: self.clone(), address });
        }
        if !std::mem::replace(&mut connections.warned, true) {
            warn!(%address, connections = self.most, "an address has as many connections as it may; more are closed");
        }
        None
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut open = self.counts.open.lock();
        let connections = open.get_mut(&self.address).expect("an open connection is counted");
        connections.count -= 1;
        if connections.count == 0 {
            open.remove(&self.address);
        }
    }
}

/// Whoever has an address of IPv6 usually has its whole /64, so that is what counts.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_of_an_address_are_bounded_and_given_back() {
        let counts = AddressCounts::new(2);
        let first = counts.take(address("10.0.0.1"));
        let _second = counts.take(address("10.0.0.1")).unwrap();
        assert!(first.is_some() && counts.take(address("10.0.0.1")).is_none());
        assert!(counts.take(address("10.0.0.2")).is_some(), "another address has places of its own");
        drop(first);
        assert!(counts.take(address("10.0.0.1")).is_some());
        assert_eq!(counts.open.lock().len(), 1, "an address without connections is forgotten");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address_and_a_mapped_address_as_ipv4() {
        assert_eq!(counted_as(address("2001:db8::1")), counted_as(address("2001:db8::ffff:1")));
        assert_ne!(counted_as(address("2001:db8::1")), counted_as(address("2001:db8:0:1::1")));
        assert_eq!(counted_as(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }
}
