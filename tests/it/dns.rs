//! Names to addresses, and back. /etc/hosts is all that these need.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use switchgrass::net::ToSocketAddrs;
use switchgrass::{dns, joinall, spawn, timeout};

use crate::util::{secs, time_limit};

/// What std finds, which blocks.
fn by_std(host: &str) -> Vec<IpAddr> {
    std::net::ToSocketAddrs::to_socket_addrs(&(host, 0)).unwrap().map(|address| address.ip()).collect()
}

#[test]
fn a_name_has_the_addresses_that_the_system_gives_it() {
    time_limit();
    let addresses = dns::resolve("localhost").unwrap();
    assert_eq!(addresses, by_std("localhost"));
    assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback));
    let with_port = dns::resolve_port("localhost", 80).unwrap();
    assert!(with_port.iter().map(SocketAddr::ip).eq(addresses));
    assert!(with_port.iter().all(|address| address.port() == 80));
    assert_eq!(Vec::from_iter("localhost:80".to_socket_addrs().unwrap()), with_port);
}

#[test]
fn addresses_in_numbers_need_no_thread() {
    // With none allowed, a lookup would wait forever. (Others in this process wait meanwhile.)
    time_limit();
    let numbers = ["127.0.0.1", "::1", "fe80::1%7", "fe80::1%lo"];
    let pool = dns::threadpool();
    let before = pool.max();
    pool.set_max(0);
    let resolved = timeout(secs(60), || numbers.map(|host| dns::resolve_port(host, 5).unwrap()));
    let textual = "[fe80::1%lo]:5".to_socket_addrs();
    pool.set_max(before);
    let [v4, v6, scope, named] = resolved.unwrap();
    assert_eq!(v4, [(Ipv4Addr::LOCALHOST, 5).into()]);
    assert_eq!(v6, [(Ipv6Addr::LOCALHOST, 5).into()]);
    assert_eq!(scope, ["[fe80::1%7]:5".parse().unwrap()]);
    let [SocketAddr::V6(named_v6)] = named[..] else { panic!("{named:?}") };
    assert_ne!(named_v6.scope_id(), 0);
    assert_eq!(Vec::from_iter(textual.unwrap()), named);
    assert_eq!(before, 10);
}

#[test]
fn a_name_that_is_none_is_an_error_that_names_it() {
    time_limit();
    for host in ["no such name", "", "fe80::1%no-such-interface", "with\0zero"] {
        let error = dns::resolve(host).unwrap_err();
        assert!(error.to_string().contains(&format!("cannot resolve '{host}'")), "{error}");
    }
    assert_eq!(dns::resolve("with\0zero").unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn an_address_has_the_name_that_the_system_gives_it() {
    time_limit();
    assert_eq!(dns::reverse([127, 0, 0, 1]).unwrap(), "localhost");
    let (host, service) = dns::name_info((Ipv4Addr::LOCALHOST, 1).into()).unwrap();
    assert_eq!(host, "localhost");
    assert!(!service.is_empty());
}

#[test]
fn more_lookups_than_threads_all_end() {
    time_limit();
    let lookups: Vec<_> = (0..100).map(|_| spawn(|| dns::resolve("localhost").unwrap())).collect();
    joinall(&lookups);
    assert!(dns::threadpool().threads() <= 10);
}
