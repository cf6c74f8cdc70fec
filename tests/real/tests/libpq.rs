//! libpq, PostgreSQL's client in C, by its blocking functions.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use pq_sys::{
    ConnStatusType, ExecStatusType, PGconn, PQclear, PQconnectdb, PQerrorMessage, PQexecParams, PQfinish,
    PQgetvalue, PQntuples, PQresultStatus, PQstatus,
};
use switchgrass::spawn;

struct Connection(*mut PGconn);

impl Connection {
    fn new(name: &str) -> Self {
        real::patched();
        let server = real::server("REAL_POSTGRES");
        let (host, port) = server.rsplit_once(':').unwrap();
        let how = format!("host={host} port={port} user=postgres dbname=postgres application_name={name}");
        let how = CString::new(how).unwrap();
        // SAFETY: a string that ends with a zero.
        let connection = Connection(unsafe { PQconnectdb(how.as_ptr()) });
        // SAFETY: it gives a connection, whatever state it is in.
        let status = unsafe { PQstatus(connection.0) };
        assert_eq!(status, ConnStatusType::CONNECTION_OK, "{}", connection.error());
        connection
    }

    fn error(&self) -> String {
        // SAFETY: the connection is open until the drop; the message stays until it is used again.
        unsafe { text(PQerrorMessage(self.0)) }
    }

    /// The only value of the only row.
    fn ask(&self, query: &str, parameter: Option<&str>) -> Result<String, String> {
        let query = CString::new(query).unwrap();
        let parameter = parameter.map(|parameter| CString::new(parameter).unwrap());
        let values = [parameter.as_ref().map_or(ptr::null(), |parameter| parameter.as_ptr())];
        // SAFETY: as many values as it is told, each a string that ends with a zero; types and lengths may be left out for text.
        let result = unsafe {
            PQexecParams(
                self.0,
                query.as_ptr(),
                parameter.is_some().into(),
                ptr::null(),
                values.as_ptr(),
                ptr::null(),
                ptr::null(),
                0,
            )
        };
        // SAFETY: null is allowed.
        let status = unsafe { PQresultStatus(result) };
        let answer = if status == ExecStatusType::PGRES_TUPLES_OK {
            // SAFETY: a result with rows.
            assert_eq!(unsafe { PQntuples(result) }, 1);
            // SAFETY: the first value of the first row; it is copied before the result goes.
            Ok(unsafe { text(PQgetvalue(result, 0, 0)) })
        } else {
            Err(self.error())
        };
        // SAFETY: it is not used any more.
        unsafe { PQclear(result) };
        answer
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: it is not used any more.
        unsafe { PQfinish(self.0) };
    }
}

/// # Safety
///
/// A string that ends with a zero.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
}

/// How many sessions of that name are inside a query that waits for an advisory lock.
fn waiting(asking: &Connection, name: &str) -> usize {
    let query = "select count(*) from pg_stat_activity \
                 where application_name = $1 and state = 'active' and wait_event = 'advisory'";
    asking.ask(query, Some(name)).unwrap().parse().unwrap()
}

#[test]
fn fifty_greenlets_have_a_slow_query_each_at_once() {
    let asking = Connection::new("asking");
    asking.ask("select pg_advisory_lock(1)", None).unwrap();
    let greenlets: Vec<_> = (0..50)
        .map(|number: usize| {
            spawn(move || {
                let connection = Connection::new("slow");
                let query = "select $1 from (select pg_advisory_lock_shared(1), pg_sleep(0.01)) as slept";
                connection.ask(query, Some(&number.to_string())).unwrap()
            })
        })
        .collect();
    real::until(|| waiting(&asking, "slow") == 50);
    asking.ask("select pg_advisory_unlock(1)", None).unwrap();
    for (number, greenlet) in greenlets.into_iter().enumerate() {
        assert_eq!(greenlet.join().unwrap(), number.to_string());
    }
}

#[test]
fn ten_thousand_queries_of_fifty_greenlets_are_answered_right() {
    real::all(50, |greenlet| {
        let connection = Connection::new("quick");
        for number in 0..200 {
            let answer = connection.ask("select $1::int + 1", Some(&(greenlet * 200 + number).to_string()));
            assert_eq!(answer.unwrap(), (greenlet * 200 + number + 1).to_string());
        }
    });
}

#[test]
fn a_session_that_the_server_ends_is_an_error_to_its_greenlet_only() {
    let asking = Connection::new("asking");
    asking.ask("select pg_advisory_lock(2)", None).unwrap();
    let greenlets: Vec<_> = (0..10)
        .map(|number| {
            spawn(move || {
                let connection = Connection::new(if number % 2 == 0 { "lost" } else { "kept" });
                connection.ask("select pg_advisory_lock_shared(2)", None)
            })
        })
        .collect();
    real::until(|| waiting(&asking, "lost") + waiting(&asking, "kept") == 10);
    let query =
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'lost'";
    assert_eq!(asking.ask(query, None).unwrap(), "5");
    real::until(|| waiting(&asking, "lost") == 0);
    asking.ask("select pg_advisory_unlock(2)", None).unwrap();
    for (number, greenlet) in greenlets.into_iter().enumerate() {
        match greenlet.join().unwrap() {
            Ok(_) => assert_eq!(number % 2, 1),
            Err(error) => {
                assert!(number % 2 == 0 && error.contains("terminating connection"), "{number}: {error}")
            }
        }
    }
}

#[test]
fn a_kill_or_a_timeout_ends_a_query_with_an_error() {
    let asking = Connection::new("asking");
    asking.ask("select pg_advisory_lock(3)", None).unwrap();
    let call = || Connection::new("ended").ask("select pg_advisory_lock(3)", None).unwrap_err();
    let entered = || real::until(|| waiting(&asking, "ended") > 0);
    for error in real::ended(call, entered) {
        assert!(!error.is_empty(), "{error}");
    }
}
