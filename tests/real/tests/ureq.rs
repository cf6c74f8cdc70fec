//! `ureq`, with a server on std's sockets.

use std::time::Duration;

use ureq::Agent;

fn get(agent: &Agent, url: &str) -> Result<String, ureq::Error> {
    agent.get(url).call()?.body_mut().read_to_string()
}

#[test]
fn a_hundred_slow_requests_of_greenlets_overlap() {
    let server = real::serve(100);
    let agent = Agent::new_with_defaults();
    real::all(100, move |number| {
        assert_eq!(get(&agent, &format!("http://{server}/{number}")).unwrap(), format!("/{number}"));
    });
}

#[test]
fn five_thousand_requests_over_kept_connections_are_answered_right() {
    let server = real::serve(0);
    let agent = Agent::new_with_defaults();
    real::all(50, move |greenlet| {
        for number in 0..100 {
            let path = format!("/{greenlet}/{number}");
            assert_eq!(get(&agent, &format!("http://{server}{path}")).unwrap(), path);
        }
    });
}

#[test]
fn bodies_of_a_megabyte_arrive() {
    let server = real::serve(20);
    let agent = Agent::new_with_defaults();
    real::all(20, move |number| {
        let body = vec![b'x'; 1_000_000 + number];
        let answer =
            agent.post(format!("http://{server}/body")).send(&body).unwrap().body_mut().read_to_string();
        assert_eq!(answer.unwrap(), format!("/body {}", body.len()));
    });
}

#[test]
fn a_request_has_its_own_timeout() {
    // Nobody is answered before the last one comes.
    let server = real::serve(52);
    let patient = Agent::new_with_defaults();
    let hasty = Agent::new_with_config(
        Agent::config_builder().timeout_recv_response(Some(Duration::from_millis(200))).build(),
    );
    let url = format!("http://{server}/");
    let waiting = switchgrass::spawn({
        let url = url.clone();
        move || get(&patient, &url).unwrap()
    });
    let last = url.clone();
    real::all(50, move |_| {
        let error = get(&hasty, &url).unwrap_err();
        assert!(matches!(error, ureq::Error::Timeout(_)), "{error}");
    });
    assert_eq!(get(&Agent::new_with_defaults(), &last).unwrap(), "/");
    assert_eq!(waiting.join().unwrap(), "/");
}

#[test]
fn a_kill_or_a_timeout_ends_a_request_with_an_error() {
    let (server, request) = real::silent();
    let url = format!("http://{server}/");
    let [killed, late] = real::ended(move || get(&Agent::new_with_defaults(), &url).unwrap_err(), request);
    assert!(matches!(killed, ureq::Error::Io(_)), "{killed}");
    // What its own timeouts give as well.
    assert!(matches!(late, ureq::Error::Timeout(_)), "{late}");
}
