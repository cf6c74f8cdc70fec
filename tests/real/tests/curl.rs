//! libcurl, by the `curl` crate's easy interface: C code that waits by `poll`.

use std::time::Duration;

use curl::easy::Easy;

fn easy(url: &str) -> Easy {
    let mut easy = Easy::new();
    easy.url(url).unwrap();
    // Otherwise a proxy of the environment's.
    easy.noproxy("*").unwrap();
    easy
}

fn get(easy: &mut Easy) -> Result<String, curl::Error> {
    let mut body = Vec::new();
    let mut transfer = easy.transfer();
    transfer.write_function(|data| {
        body.extend_from_slice(data);
        Ok(data.len())
    })?;
    transfer.perform()?;
    drop(transfer);
    Ok(String::from_utf8(body).unwrap())
}

#[test]
fn a_hundred_slow_transfers_of_greenlets_overlap() {
    let server = real::serve(100);
    real::all(100, move |number| {
        let url = format!("http://{server}/{number}");
        assert_eq!(get(&mut easy(&url)).unwrap(), format!("/{number}"));
    });
}

#[test]
fn two_thousand_transfers_over_kept_connections_are_answered_right() {
    let server = real::serve(0);
    real::all(20, move |greenlet| {
        let mut easy = easy("");
        for number in 0..100 {
            let path = format!("/{greenlet}/{number}");
            easy.url(&format!("http://{server}{path}")).unwrap();
            assert_eq!(get(&mut easy).unwrap(), path);
        }
    });
}

#[test]
fn its_resolver_threads_are_waited_for() {
    real::all(20, move |number| {
        // Longer than a label may be: refused without asking a server.
        let url = format!("http://{}{number}/", "x".repeat(64));
        let error = get(&mut easy(&url)).unwrap_err();
        assert!(error.is_couldnt_resolve_host(), "{error}");
    });
}

#[test]
fn a_transfer_has_its_own_timeout() {
    // Nobody is answered before the last one comes.
    let server = real::serve(52);
    let url = format!("http://{server}/");
    let waiting = switchgrass::spawn({
        let url = url.clone();
        move || get(&mut easy(&url)).unwrap()
    });
    let last = url.clone();
    real::all(50, move |_| {
        let mut easy = easy(&url);
        easy.timeout(Duration::from_millis(200)).unwrap();
        let error = get(&mut easy).unwrap_err();
        assert!(error.is_operation_timedout(), "{error}");
    });
    assert_eq!(get(&mut easy(&last)).unwrap(), "/");
    assert_eq!(waiting.join().unwrap(), "/");
}

#[test]
fn a_kill_or_a_timeout_ends_a_transfer_with_an_error() {
    let (server, request) = real::silent();
    let url = format!("http://{server}/");
    for error in real::ended(move || get(&mut easy(&url)).unwrap_err(), request) {
        assert!(!error.is_operation_timedout(), "{error}");
    }
}
