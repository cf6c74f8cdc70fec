//! tokio: `--threads 1` is the current_thread runtime, more is multi_thread with as many workers.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};

use crate::http::Http;
use crate::{CHILDREN, Keys, Outcome, Sleeping};

pub(crate) fn run(work: &str, keys: &Keys) -> Outcome {
    let runtime = match keys.number("threads", 1) as usize {
        1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
    .map_err(|error| error.to_string())?;
    let (work, keys) = (work.to_owned(), keys.clone());
    // The work is a task itself, so that on multi_thread it runs on a worker and not beside them.
    let task = runtime.spawn(async move {
        match work.as_str() {
            "yield" => yields(&keys).await,
            "pingpong" => ping_pong(&keys).await,
            "channel" => channel(&keys).await,
            "spawn_join" => spawn_join(&keys).await,
            "skynet" => skynet(&keys).await,
            "idle_mem" => idle_mem(&keys).await,
            "timers" => timers(&keys).await,
            "echo" => serve(&keys, echo).await,
            "http" => serve(&keys, http).await,
            _ => crate::missing(),
        }
    });
    let outcome = runtime.block_on(task).map_err(|error| error.to_string())?;
    runtime.shutdown_background();
    outcome
}

async fn yields(keys: &Keys) -> Outcome {
    let (n, tasks) = (keys.number("n", 10_000_000), keys.number("tasks", 2));
    let each = n / tasks;
    let start = Instant::now();
    let tasks: Vec<JoinHandle<u64>> = (0..tasks)
        .map(|_| {
            tokio::spawn(async move {
                let mut count = 0;
                for _ in 0..each {
                    yield_now().await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let (should, mut count) = (each * tasks.len() as u64, 0);
    for task in tasks {
        count += task.await.expect("it does not panic");
    }
    let elapsed = start.elapsed();
    crate::check("yields", count, should)?;
    Ok((crate::per(elapsed, should), "ns/yield", vec![]))
}

async fn ping_pong(keys: &Keys) -> Outcome {
    let n = keys.number("n", 4_000_000) / 2;
    let (there, mut requests) = mpsc::channel(1);
    let (answers, mut back) = mpsc::channel(1);
    let start = Instant::now();
    let pong = tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            answers.send(request + 1).await.expect("ping receives");
        }
    });
    let ping = tokio::spawn(async move {
        let mut right = 0;
        for i in 0..n {
            there.send(i).await.expect("pong receives");
            right += u64::from(back.recv().await == Some(i + 1));
        }
        right
    });
    let right = ping.await.expect("it does not panic");
    pong.await.expect("it does not panic");
    let elapsed = start.elapsed();
    crate::check("right answers", right, n)?;
    Ok((crate::per(elapsed, n * 2), "ns/message", vec![]))
}

async fn channel(keys: &Keys) -> Outcome {
    let n = keys.number("n", 10_000_000);
    let (tx, mut rx) = mpsc::channel(keys.number("cap", 128) as usize);
    let start = Instant::now();
    let producer = tokio::spawn(async move {
        for i in 0..n {
            tx.send(i).await.expect("it is received");
        }
    });
    let consumer = tokio::spawn(async move {
        let mut sum = 0_u64;
        while let Some(i) = rx.recv().await {
            sum += i;
        }
        sum
    });
    let sum = consumer.await.expect("it does not panic");
    producer.await.expect("it does not panic");
    crate::throughput(start, n, sum)
}

async fn spawn_join(keys: &Keys) -> Outcome {
    let (n, batch) = (keys.number("n", 100_000), keys.number("batch", 1000));
    let mut times = Vec::new();
    for _ in 0..keys.number("reps", 5) {
        let start = Instant::now();
        let (mut sum, mut next) = (0, 0);
        while next < n {
            let end = n.min(next + batch);
            let tasks: Vec<JoinHandle<u64>> = (next..end).map(|i| tokio::spawn(async move { i })).collect();
            for task in tasks {
                sum += task.await.expect("it returns a number");
            }
            next = end;
        }
        times.push(crate::per(start.elapsed(), n));
        crate::check("sum", sum, n * (n - 1) / 2)?;
    }
    crate::repetitions(times)
}

async fn skynet(keys: &Keys) -> Outcome {
    let leaves = keys.number("n", 1_000_000);
    let (root, mut sums) = mpsc::channel(1);
    let start = Instant::now();
    tokio::spawn(grow(root, 0, leaves));
    let sum = sums.recv().await.expect("the root sends its sum");
    crate::tree(start, leaves, sum)
}

/// Boxed, for it starts itself.
fn grow(parent: mpsc::Sender<u64>, first: u64, leaves: u64) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let mut sum = first;
        if leaves > 1 {
            let (tx, mut rx) = mpsc::channel(CHILDREN as usize);
            let each = leaves / CHILDREN;
            for child in 0..CHILDREN {
                tokio::spawn(grow(tx.clone(), first + child * each, each));
            }
            sum = 0;
            for _ in 0..CHILDREN {
                sum += rx.recv().await.expect("each child sends its sum");
            }
        }
        parent.send(sum).await.expect("the parent receives from each child");
    })
}

async fn idle_mem(keys: &Keys) -> Outcome {
    let n = keys.number("n", 100_000);
    let count = Arc::new(AtomicU64::new(0));
    let before = crate::resident_bytes();
    let tasks: Vec<JoinHandle<()>> = (0..n)
        .map(|_| {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                count.fetch_add(1, Ordering::Relaxed);
                pending().await
            })
        })
        .collect();
    while count.load(Ordering::Relaxed) < n {
        yield_now().await;
    }
    let outcome = crate::idle(before, n);
    std::mem::forget(tasks);
    outcome
}

async fn timers(keys: &Keys) -> Outcome {
    let sleeps = crate::random_sleeps(keys.number("n", 100_000), keys.number("max-ms", 1000));
    let sleeping = Sleeping::start(&sleeps);
    let tasks: Vec<JoinHandle<bool>> = sleeps
        .into_iter()
        .map(|duration: Duration| {
            tokio::spawn(async move {
                let begin = Instant::now();
                tokio::time::sleep(duration).await;
                begin.elapsed() >= duration
            })
        })
        .collect();
    let mut slept = 0;
    for task in tasks {
        slept += u64::from(task.await.expect("it does not panic"));
    }
    sleeping.end(slept)
}

async fn serve<F>(keys: &Keys, handle: fn(TcpStream) -> F) -> Outcome
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(keys.addr()).await.map_err(|error| error.to_string())?;
    loop {
        let (stream, _) = listener.accept().await.map_err(|error| error.to_string())?;
        tokio::spawn(handle(stream));
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..len]).await?;
    }
}

async fn http(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut http = Http::new();
    loop {
        let len = stream.read(http.room()).await?;
        if len == 0 {
            return Ok(());
        }
        let open = http.answer(len);
        stream.write_all(&http.output).await?;
        http.output.clear();
        if !open {
            return Ok(());
        }
    }
}
