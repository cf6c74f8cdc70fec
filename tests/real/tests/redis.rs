//! `redis`, the client, with redis-server.

use redis::{Client, Connection, RedisResult, cmd};
use switchgrass::spawn;

fn connect(name: &str) -> Connection {
    real::patched();
    let client = Client::open(format!("redis://{}/", real::server("REAL_REDIS"))).unwrap();
    let mut connection = client.get_connection().unwrap();
    cmd("CLIENT").arg("SETNAME").arg(name).exec(&mut connection).unwrap();
    connection
}

/// The clients of that name that the server has waiting in BLPOP.
fn blocked(asking: &mut Connection, name: &str) -> Vec<String> {
    let list: String = cmd("CLIENT").arg("LIST").query(asking).unwrap();
    let name = format!(" name={name} ");
    list.lines()
        .filter(|line| line.contains(&name) && line.contains(" cmd=blpop "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn fifty_greenlets_wait_in_blpop_at_once() {
    let mut asking = connect("asking");
    let greenlets: Vec<_> = (0..50)
        .map(|number| {
            spawn(move || {
                let mut connection = connect("slow");
                cmd("BLPOP")
                    .arg(format!("slow{number}"))
                    .arg(0)
                    .query::<(String, usize)>(&mut connection)
                    .unwrap()
            })
        })
        .collect();
    real::until(|| blocked(&mut asking, "slow").len() == 50);
    for number in 0..50 {
        cmd("RPUSH").arg(format!("slow{number}")).arg(number).exec(&mut asking).unwrap();
    }
    for (number, greenlet) in greenlets.into_iter().enumerate() {
        assert_eq!(greenlet.join().unwrap(), (format!("slow{number}"), number));
    }
}

#[test]
fn ten_thousand_commands_of_fifty_greenlets_are_answered_right() {
    real::all(50, |greenlet| {
        let mut connection = connect("quick");
        for number in 0..200 {
            let text = format!("{greenlet}:{number}");
            assert_eq!(cmd("ECHO").arg(&text).query::<String>(&mut connection).unwrap(), text);
        }
    });
}

#[test]
fn a_connection_that_the_server_ends_is_an_error_to_its_greenlet_only() {
    let mut asking = connect("asking");
    let greenlets: Vec<_> = (0..10)
        .map(|number| {
            spawn(move || -> RedisResult<usize> {
                let mut connection = connect(if number % 2 == 0 { "lost" } else { "kept" });
                let list = format!("loss{number}");
                cmd("BLPOP").arg(list).arg(0).query::<(String, usize)>(&mut connection).map(|answer| answer.1)
            })
        })
        .collect();
    real::until(|| blocked(&mut asking, "lost").len() + blocked(&mut asking, "kept").len() == 10);
    for client in blocked(&mut asking, "lost") {
        let id = client.split_once("id=").unwrap().1.split_once(' ').unwrap().0;
        cmd("CLIENT").arg("KILL").arg("ID").arg(id).exec(&mut asking).unwrap();
    }
    for number in (1..10).step_by(2) {
        cmd("RPUSH").arg(format!("loss{number}")).arg(number).exec(&mut asking).unwrap();
    }
    for (number, greenlet) in greenlets.into_iter().enumerate() {
        match greenlet.join().unwrap() {
            Ok(answer) => assert_eq!((answer, number % 2), (number, 1)),
            Err(error) => assert!(number % 2 == 0 && error.is_io_error(), "{number}: {error}"),
        }
    }
}

#[test]
fn a_kill_or_a_timeout_ends_a_command_with_an_error() {
    let mut asking = connect("asking");
    let call = || {
        let mut connection = connect("ended");
        cmd("BLPOP").arg("ended").arg(0).query::<(String, usize)>(&mut connection).unwrap_err()
    };
    for error in real::ended(call, || real::until(|| !blocked(&mut asking, "ended").is_empty())) {
        assert!(error.is_io_error(), "{error}");
    }
}
