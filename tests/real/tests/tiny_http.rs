//! `tiny_http`, the server, under the load of `ureq`.
//!
//! Note: It accepts and reads on OS threads of its own, which stay as they are; what the program calls (`recv`, `respond`) waits for its greenlet.
//! Note: Of many connections that come in the same moment, it may leave some without a thread: so it does in a program of plain threads, too.

use std::net::SocketAddr;
use std::sync::{Arc, Barrier};

use switchgrass::{Greenlet, spawn};
use tiny_http::{Response, Server};
use ureq::Agent;

/// So many greenlets that answer a request with its path; those for `/slow` meet first, all of them.
fn serve(server: &Arc<Server>, greenlets: usize) -> Vec<Greenlet<usize>> {
    let meeting = Arc::new(Barrier::new(greenlets));
    (0..greenlets)
        .map(|_| {
            let (server, meeting) = (Arc::clone(server), Arc::clone(&meeting));
            spawn(move || {
                let mut answered = 0;
                // `unblock` ends it.
                while let Ok(request) = server.recv() {
                    let body = request.url().to_owned();
                    if body == "/slow" {
                        meeting.wait();
                    }
                    request.respond(Response::from_string(body)).unwrap();
                    answered += 1;
                }
                answered
            })
        })
        .collect()
}

fn end(server: &Server, greenlets: Vec<Greenlet<usize>>) -> usize {
    greenlets.iter().for_each(|_| server.unblock());
    greenlets.into_iter().map(|greenlet| greenlet.join().unwrap()).sum()
}

fn start() -> (Arc<Server>, SocketAddr) {
    real::patched();
    let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
    let address = server.server_addr().to_ip().unwrap();
    (server, address)
}

fn get(agent: &Agent, address: SocketAddr, path: &str) -> String {
    agent.get(format!("http://{address}{path}")).call().unwrap().body_mut().read_to_string().unwrap()
}

#[test]
fn fifty_greenlets_answer_at_once() {
    let (server, address) = start();
    let greenlets = serve(&server, 50);
    // One after the other, so that each connection has a thread of the server's.
    let agents: Vec<_> = (0..50).map(|_| Agent::new_with_defaults()).collect();
    for agent in &agents {
        assert_eq!(get(agent, address, "/quick"), "/quick");
    }
    real::all(50, move |number| assert_eq!(get(&agents[number], address, "/slow"), "/slow"));
    assert_eq!(end(&server, greenlets), 100);
}

#[test]
fn five_thousand_requests_of_fifty_greenlets_are_answered_right() {
    let (server, address) = start();
    let greenlets = serve(&server, 10);
    let agent = Agent::new_with_defaults();
    real::all(50, move |greenlet| {
        for number in 0..100 {
            let path = format!("/{greenlet}/{number}");
            assert_eq!(get(&agent, address, &path), path);
        }
    });
    assert_eq!(end(&server, greenlets), 5000);
}
