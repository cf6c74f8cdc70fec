//! A crawler: begins at one page, follows the links it finds, and fetches at most so many pages at once.
//!
//! ```text
//! cargo run --release --example crawler
//! cargo run --release --example crawler -- --at-once 50 2>/dev/null
//! ```
//!
//! The site is one that this program serves itself, with some links that lead nowhere. Progress goes
//! to stderr, the result to stdout.
//!
//! How it knows the end: each link that is found goes into a queue, and counts as unfinished until its page is
//! fetched *and* the links on it are in the queue, too. When nothing is unfinished, there is nothing left to find.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use lexopt::Arg::{Long, Short};
use switchgrass::net::TcpStream;
use switchgrass::pool::Pool;
use switchgrass::queue::Queue;
use switchgrass::server::StreamServer;
use switchgrass::{sleep, spawn, timeout};

#[macro_use]
mod common;

use common::Failure;

/// What one page may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How large a page may be.
const MOST_BYTES: u64 = 1 << 20;

struct Crawler {
    site: SocketAddr,
    /// What was found and is not yet being fetched.
    frontier: Queue<String>,
    /// What was ever found, so that nothing is fetched twice.
    known: RefCell<BTreeSet<String>>,
    visited: RefCell<BTreeMap<String, Page>>,
}

/// What became of a link.
struct Page {
    /// `200 OK`, or why there is no answer.
    status: String,
    bytes: usize,
    links: Vec<String>,
}

impl Crawler {
    fn new(site: SocketAddr) -> Self {
        Crawler { site, frontier: Queue::unbounded(), known: RefCell::default(), visited: RefCell::default() }
    }

    fn found(&self, link: &str) {
        if self.known.borrow_mut().insert(link.to_owned()) {
            self.frontier.put(link.to_owned()).expect("it is open as long as something is unfinished");
        }
    }

    /// Fetches the page at `start`, and all that can be reached from there.
    fn crawl(self: &Rc<Self>, start: &str, pool: &Pool) {
        self.found(start);
        spawn({
            let crawler = Rc::clone(self);
            move || {
                crawler.frontier.join();
                crawler.frontier.shutdown();
            }
        });
        // Ends with the shutdown. The pool holds it back while all its slots are taken; and not the
        // greenlets in it, which only put links into the queue: a pool whose greenlets wait for its slots
        // themselves would soon stand still.
        for link in &self.frontier {
            let crawler = Rc::clone(self);
            pool.spawn(move || crawler.visit(link));
        }
        pool.join();
    }

    fn visit(&self, link: String) {
        let answer =
            timeout(PATIENCE, || fetch(self.site, &link)).unwrap_or_else(|elapsed| Err(elapsed.into()));
        let page = answer.unwrap_or_else(|error| Page {
            status: format!("no answer ({:?})", error.kind()),
            bytes: 0,
            links: Vec::new(),
        });
        page.links.iter().for_each(|link| self.found(link));
        self.visited.borrow_mut().insert(link, page);
        self.frontier.task_done();
    }

    /// How many links one has to follow at least, to come to the page that is farthest away.
    fn depth(&self, start: &str) -> usize {
        let visited = self.visited.borrow();
        let (mut seen, mut level) = (BTreeSet::from([start]), vec![start]);
        for depth in 0.. {
            let next: Vec<_> = level
                .iter()
                .flat_map(|link| visited[*link].links.iter().map(String::as_str))
                .filter(|&link| seen.insert(link))
                .collect();
            if next.is_empty() {
                return depth;
            }
            level = next;
        }
        unreachable!("a level without pages comes at last")
    }
}

fn fetch(site: SocketAddr, path: &str) -> io::Result<Page> {
    let mut stream = TcpStream::connect(site)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status =
        head.lines().next().and_then(|line| line.split_once(' ')).ok_or(io::ErrorKind::InvalidData)?.1;
    let links = body.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    // What begins with a slash is on the same site.
    let links = links.filter(|link| link.starts_with('/')).map(str::to_owned).collect();
    Ok(Page { status: status.to_owned(), bytes: body.len(), links })
}

/// The site: a tree of 300 pages with a few links across, some to where nothing is.
fn page(path: &str) -> Option<String> {
    const PAGES: usize = 300;
    let n: usize = match path {
        "/" => 0,
        _ => path.strip_prefix("/page/")?.parse().ok().filter(|n| (1..PAGES).contains(n))?,
    };
    let mut links: Vec<_> =
        (3 * n + 1..3 * n + 4).filter(|&n| n < PAGES).map(|n| format!("/page/{n}")).collect();
    links.push("/".to_owned());
    links.push(format!("/page/{}", (n * n + 7) % (PAGES - 1) + 1));
    if n % 60 == 59 {
        links.push(format!("/lost/{n}"));
    }
    if n == 100 {
        links.push("/broken".to_owned());
    }
    links.push("http://elsewhere.invalid/".to_owned());
    let links: String = links.iter().map(|link| format!("<a href=\"{link}\">{link}</a>\n")).collect();
    Some(format!("<h1>Page {n}</h1>\n{links}"))
}

fn serve(stream: &TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    // A page takes its time, and not each the same.
    sleep(Duration::from_millis(5 + request.len() as u64 % 7));
    let (status, body) = match page(path) {
        // Hangs up without an answer.
        None if path == "/broken" => return Ok(()),
        None => ("404 Not Found", String::new()),
        Some(body) => ("200 OK", body),
    };
    (&*stream).write_all(format!("HTTP/1.0 {status}\r\n\r\n{body}").as_bytes())
}

/// Shows on stderr how far it is, until it is killed.
fn show_progress(crawler: &Crawler, pool: &Pool) {
    // On a terminal, always in the same line.
    let terminal = io::stderr().is_terminal();
    let (before, after) = if terminal { ("\r", "\x1b[K") } else { ("", "\n") };
    loop {
        sleep(Duration::from_millis(100));
        let (visited, known) = (crawler.visited.borrow().len(), crawler.known.borrow().len());
        let text = format!("{before}{visited} pages of {known} known, {} at once{after}", pool.len());
        // Nobody has to look at it.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

fn run() -> Result<ExitCode, Failure> {
    let mut at_once = 20;
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("at-once") => at_once = common::number(&mut parser, "at-once", 1, 1000)?,
            Long("help") | Short('h') => {
                say!("crawler [--at-once 20]\n\nCrawls a site of its own, so many pages at once.");
                return Ok(ExitCode::SUCCESS);
            }
            _ => return Err(arg.unexpected().into()),
        }
    }

    let most = Rc::new(Cell::new(0));
    let server = StreamServer::bind("127.0.0.1:0", {
        let (now, most) = (Cell::new(0), Rc::clone(&most));
        move |stream, _peer| {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            // Who has gone away misses the page.
            let _ = serve(&stream);
            now.set(now.get() - 1);
        }
    })?;
    server.start();

    let (crawler, pool) = (Rc::new(Crawler::new(server.local_addr())), Pool::new(at_once));
    let progress = spawn({
        let (crawler, pool) = (Rc::clone(&crawler), pool.clone());
        move || show_progress(&crawler, &pool)
    });
    crawler.crawl("/", &pool);
    progress.kill();
    complain!("\n{} requests, {} of them at once", server.statistics().accepted, most.get());
    server.stop(PATIENCE);

    let visited = crawler.visited.borrow();
    let mut by_status = BTreeMap::<&str, usize>::new();
    for page in visited.values() {
        *by_status.entry(&page.status).or_default() += 1;
    }
    for (status, count) in by_status {
        say!("{count:4} × {status}");
    }
    say!("{} links, {} bytes", visited.values().map(|p| p.links.len()).sum::<usize>(), {
        visited.values().map(|page| page.bytes).sum::<usize>()
    });
    say!("the farthest page is {} links away", crawler.depth("/"));
    for (link, _) in visited.iter().filter(|(_, page)| page.status != "200 OK") {
        let from: Vec<_> = visited
            .iter()
            .filter(|(_, page)| page.links.contains(link))
            .map(|(from, _)| from.as_str())
            .collect();
        say!("broken: {link}, linked from {}", from.join(", "));
    }
    // The point of a pool.
    assert!(most.get() <= at_once, "{} at once", most.get());
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    common::finish(run())
}
