//! `mysql`, the client, with MariaDB.

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use switchgrass::spawn;

fn connect() -> Conn {
    real::patched();
    let server = real::server("REAL_MYSQL");
    let (host, port) = server.rsplit_once(':').unwrap();
    let how = OptsBuilder::new()
        .ip_or_hostname(Some(host))
        .tcp_port(port.parse().unwrap())
        .user(Some("root"))
        .prefer_socket(false);
    Conn::new(how).unwrap()
}

/// The numbers of the connections that are in a query of that text just now.
fn inside(asking: &mut Conn, query: &str) -> Vec<u32> {
    asking.exec("SELECT id FROM information_schema.processlist WHERE info = ?", (query,)).unwrap()
}

#[test]
fn fifty_greenlets_have_a_slow_query_each_at_once() {
    const SLOW: &str = "SELECT GET_LOCK('slow', 100) + RELEASE_LOCK('slow') + SLEEP(0.01)";
    let mut asking = connect();
    let _: Option<u32> = asking.query_first("SELECT GET_LOCK('slow', 0)").unwrap();
    let greenlets: Vec<_> =
        (0..50).map(|_| spawn(|| connect().query_first::<u32, _>(SLOW).unwrap())).collect();
    real::until(|| inside(&mut asking, SLOW).len() == 50);
    let _: Option<u32> = asking.query_first("SELECT RELEASE_LOCK('slow')").unwrap();
    for greenlet in greenlets {
        assert_eq!(greenlet.join().unwrap(), Some(2));
    }
}

#[test]
fn ten_thousand_queries_of_fifty_greenlets_are_answered_right() {
    real::all(50, |greenlet| {
        let mut connection = connect();
        for number in 0..200 {
            let given = greenlet * 200 + number;
            // Half of them as text, half as prepared statements.
            let answer: Option<usize> = match number % 2 {
                0 => connection.query_first(format!("SELECT {given} + 1")),
                _ => connection.exec_first("SELECT ? + 1", (given,)),
            }
            .unwrap();
            assert_eq!(answer, Some(given + 1));
        }
    });
}

#[test]
fn a_connection_that_the_server_ends_is_an_error_to_its_greenlet_only() {
    const LOST: &str = "SELECT GET_LOCK('loss', 100) + RELEASE_LOCK('loss') AS lost";
    const KEPT: &str = "SELECT GET_LOCK('loss', 100) + RELEASE_LOCK('loss') AS kept";
    let mut asking = connect();
    let _: Option<u32> = asking.query_first("SELECT GET_LOCK('loss', 0)").unwrap();
    let greenlets: Vec<_> = (0..10)
        .map(|number| {
            spawn(move || connect().query_first::<u32, _>(if number % 2 == 0 { LOST } else { KEPT }))
        })
        .collect();
    real::until(|| inside(&mut asking, LOST).len() + inside(&mut asking, KEPT).len() == 10);
    for id in inside(&mut asking, LOST) {
        asking.query_drop(format!("KILL {id}")).unwrap();
    }
    real::until(|| inside(&mut asking, LOST).is_empty());
    let _: Option<u32> = asking.query_first("SELECT RELEASE_LOCK('loss')").unwrap();
    for (number, greenlet) in greenlets.into_iter().enumerate() {
        match greenlet.join().unwrap() {
            Ok(answer) => assert_eq!((answer, number % 2), (Some(2), 1)),
            Err(error) => assert!(number % 2 == 0 && error.is_connectivity_error(), "{number}: {error}"),
        }
    }
}

#[test]
fn a_kill_or_a_timeout_ends_a_query_with_an_error() {
    const ENDED: &str = "SELECT GET_LOCK('ended', 100)";
    let mut asking = connect();
    let _: Option<u32> = asking.query_first("SELECT GET_LOCK('ended', 0)").unwrap();
    let call = || connect().query_first::<u32, _>(ENDED).unwrap_err();
    for error in real::ended(call, || real::until(|| !inside(&mut asking, ENDED).is_empty())) {
        assert!(error.is_connectivity_error(), "{error}");
    }
}
