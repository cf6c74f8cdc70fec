//! The table and the pictures: `report ROUNDS.TSV DIRECTORY`.
//!
//! Each line of the file is a work, a peer and a value, with tabs between; lines that begin with `#` are told as they are.
//!
//! And how cost grows: `report --growth ROUNDS FILE.SVG`, from what `benches/growth.sh` keeps.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use plotters::prelude::*;

struct Work {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    more_is_better: bool,
}

const fn work(name: &'static str, title: &'static str, unit: &'static str) -> Work {
    Work { name, title, unit, more_is_better: false }
}

const fn rate(name: &'static str, title: &'static str, unit: &'static str) -> Work {
    Work { name, title, unit, more_is_better: true }
}

/// A picture each: its file, its title, its works.
const PICTURES: &[(&str, &str, &[Work])] = &[
    (
        "tasks.svg",
        "Switching, starting and joining",
        &[
            work("yield-2", "yield, 2 tasks", "ns"),
            work("yield-1000", "yield, 1,000 tasks", "ns"),
            work("spawn-1000", "spawn and join, 1,000 at a time", "ns"),
            work("spawn-100000", "spawn and join, 100,000 at once", "ns"),
            work("skynet-10000", "skynet, a tree with 10,000 leaves, per task", "ns"),
            work("skynet", "skynet, a tree with 1,000,000 leaves, per task", "ns"),
        ],
    ),
    (
        "messages.svg",
        "Messages",
        &[
            work("pingpong", "ping-pong over two channels, per message", "ns"),
            rate("channel", "bounded channel (128), one thread", "messages/s"),
            rate("channel-threads", "bounded channel (128), two threads", "messages/s"),
        ],
    ),
    (
        "waiting.svg",
        "Waiting",
        &[
            work("timers-10000", "10,000 random sleeps, CPU", "ms"),
            work("timers", "100,000 random sleeps, CPU", "ms"),
            work("idle-10000", "an idle task of 10,000 (threads: of 1,000), resident memory", "bytes"),
            work("idle", "an idle task of 100,000, resident memory", "bytes"),
        ],
    ),
    (
        "servers.svg",
        "Servers, CPU per request",
        &[
            work("echo-64-cpu", "echo, 64 connections", "µs"),
            work("echo-1000-cpu", "echo, 1,000 connections", "µs"),
            work("http-64-cpu", "HTTP, 64 connections", "µs"),
            work("http-1000-cpu", "HTTP, 1,000 connections", "µs"),
        ],
    ),
    (
        "latencies.svg",
        "Servers, latency under full load of a closed loop",
        &[
            rate("echo-64-rate", "echo, 64 connections, requests", "per second"),
            work("echo-64-p50", "echo, 64 connections, median", "µs"),
            work("echo-64-p99", "echo, 64 connections, 99 %", "µs"),
            work("echo-64-p999", "echo, 64 connections, 99.9 %", "µs"),
            rate("echo-1000-rate", "echo, 1,000 connections, requests", "per second"),
            work("echo-1000-p50", "echo, 1,000 connections, median", "µs"),
            work("echo-1000-p99", "echo, 1,000 connections, 99 %", "µs"),
            work("echo-1000-p999", "echo, 1,000 connections, 99.9 %", "µs"),
            rate("http-64-rate", "HTTP, 64 connections, requests", "per second"),
            work("http-64-p50", "HTTP, 64 connections, median", "µs"),
            work("http-64-p99", "HTTP, 64 connections, 99 %", "µs"),
            work("http-64-p999", "HTTP, 64 connections, 99.9 %", "µs"),
        ],
    ),
];

/// What the rows are called.
fn called(peer: &str) -> &str {
    match peer {
        "switchgrass-1" => "switchgrass",
        "switchgrass-2" => "switchgrass, 2 hubs",
        "may-1" => "may",
        "may-2" => "may, 2 workers",
        "tokio-1" => "tokio current_thread",
        "tokio-2" => "tokio multi_thread, 2",
        "threads" => "std threads",
        "mio" => "by hand on mio",
        "go-1" => "Go",
        "go-2" => "Go, 2 threads",
        other => other,
    }
}

const OURS: &str = "switchgrass-1";

struct Row {
    peer: String,
    median: f64,
    low: f64,
    high: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if_eq("--growth").is_some() {
        let (Some(rounds), Some(file)) = (args.next(), args.next()) else {
            return Err("usage: report --growth ROUNDS FILE.SVG".into());
        };
        return draw_growth(&rounds, &file);
    }
    let (Some(rounds), Some(directory)) = (args.next(), args.next()) else {
        return Err("usage: report ROUNDS.TSV DIRECTORY".into());
    };
    let text = std::fs::read_to_string(&rounds).map_err(|error| format!("{rounds}: {error}"))?;
    let mut values: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let mut told = String::new();
    for line in text.lines() {
        if let Some(remark) = line.strip_prefix("# ") {
            writeln!(told, "- {remark}")?;
            continue;
        }
        let fields: Vec<&str> = line.split('\t').collect();
        let [work, peer, value] = fields[..] else { return Err(format!("{rounds}: {line}").into()) };
        values.entry((work, peer)).or_default().push(value.parse()?);
    }
    let rows = |work: &Work| {
        let mut rows: Vec<Row> = values
            .iter()
            .filter(|((name, _), _)| *name == work.name)
            .map(|((_, peer), values)| summary(peer, values))
            .collect();
        // The best first, whoever that is.
        rows.sort_by(|a, b| a.median.total_cmp(&b.median));
        if work.more_is_better {
            rows.reverse();
        }
        rows
    };
    let mut table = String::from(
        "| work | runtime | median | lowest to highest | × switchgrass |\n|---|---|---|---|---|\n",
    );
    for (file, title, works) in PICTURES {
        let panels: Vec<(&Work, Vec<Row>)> =
            works.iter().map(|work| (work, rows(work))).filter(|(_, rows)| !rows.is_empty()).collect();
        for (work, rows) in &panels {
            let ours =
                rows.iter().find(|row| row.peer == OURS).map(|row| row.median).filter(|ours| *ours > 0.0);
            for row in rows {
                let ratio = ours.map_or(String::new(), |ours| format!("{:.2}", row.median / ours));
                let (peer, unit) = (called(&row.peer), work.unit);
                let (median, low, high) = (short(row.median), short(row.low), short(row.high));
                writeln!(table, "| {} | {peer} | {median} {unit} | {low} to {high} | {ratio} |", work.title)?;
            }
        }
        if !panels.is_empty() {
            draw(&Path::new(&directory).join(file), title, &panels)?;
        }
    }
    let whole = format!("{table}\n{told}");
    std::fs::write(Path::new(&directory).join("table.md"), &whole)?;
    print!("{whole}");
    Ok(())
}

/// An even number of values has two in the middle; the lower one is one that was measured.
fn summary(peer: &str, values: &[f64]) -> Row {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[0], values[values.len() - 1]);
    Row { peer: peer.to_owned(), median: values[(values.len() - 1) / 2], low, high }
}

/// Three digits that mean something, thousands set apart.
fn short(value: f64) -> String {
    let decimals = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let whole = text.find('.').unwrap_or(text.len());
    let mut out = String::new();
    for (i, digit) in text.chars().enumerate() {
        if i > 0 && i < whole && (whole - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

const WIDTH: u32 = 900;
const ROW: u32 = 24;
/// Room for the title of a panel and its axis.
const FRAME: u32 = 70;

/// One panel below the other; in each a row per peer with a dot at the median and a line from the lowest to the highest round, on a
/// logarithmic axis: the peers are far apart, and a dot needs no zero to stand on.
fn draw(file: &Path, title: &str, panels: &[(&Work, Vec<Row>)]) -> Result<(), Box<dyn Error>> {
    let height = |rows: &[Row]| FRAME + ROW * rows.len() as u32;
    let whole = 40 + panels.iter().map(|(_, rows)| height(rows)).sum::<u32>();
    let root = SVGBackend::new(file, (WIDTH, whole)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut rest = root.titled(title, ("sans-serif", 26))?;
    for (work, rows) in panels {
        let (panel, below) = rest.split_vertically(height(rows));
        rest = below;
        draw_panel(&panel, work, rows)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    panel: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    work: &Work,
    rows: &[Row],
) -> Result<(), Box<dyn Error>> {
    // A logarithm needs something above zero; clocks that count in ms give zeroes for very little.
    let at = |value: f64| value.max(0.01);
    let low = rows.iter().map(|row| at(row.low)).fold(f64::INFINITY, f64::min);
    let high = rows.iter().map(|row| at(row.high)).fold(0.0, f64::max);
    let better = if work.more_is_better { "more is better" } else { "less is better" };
    // Room at the right for the figure beside the last dot.
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("{}: {}, {better} (logarithmic)", work.title, work.unit), ("sans-serif", 19))
        .margin_right(20)
        .x_label_area_size(28)
        .y_label_area_size(170)
        .build_cartesian_2d(
            (low / 1.5..high * 1.5 * (high / low).powf(0.25)).log_scale(),
            0.0..rows.len() as f64,
        )?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_labels(8)
        .label_style(("sans-serif", 14))
        .x_label_formatter(&|x| short(*x))
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(220, 220, 220))
        .draw()?;
    let (left, top) = panel.get_base_pixel();
    for (i, row) in rows.iter().enumerate() {
        // The best on top.
        let y = rows.len() as f64 - i as f64 - 0.5;
        let ours = row.peer.starts_with("switchgrass");
        let colour = if ours { RGBColor(30, 130, 60) } else { RGBColor(90, 100, 125) };
        let label = ("sans-serif", 16).into_font().color(&colour);
        chart.draw_series([PathElement::new(
            vec![(at(row.low), y), (at(row.high), y)],
            colour.stroke_width(3),
        )])?;
        chart.draw_series([Circle::new((at(row.median), y), 5, colour.filled())])?;
        let (x, y) = chart.backend_coord(&(at(row.high), y));
        let (x, y) = (x - left, y - top);
        panel.draw(&Text::new(short(row.median), (x + 10, y - 6), label.clone()))?;
        panel.draw(&Text::new(called(&row.peer).to_owned(), (8, y - 6), label))?;
    }
    Ok(())
}

/// What `growth.sh` measures, and how a curve is called.
const CURVES: &[(&str, &str, RGBColor)] = &[
    ("spawn", "spawn and join", RGBColor(30, 130, 60)),
    ("yield", "yield", RGBColor(40, 90, 190)),
    ("sleep", "a random sleep, CPU", RGBColor(190, 80, 30)),
    ("echo", "echo, CPU of the server per request", RGBColor(120, 60, 150)),
];

/// A curve per work, of the medians, on logarithmic axes. Each line of the file is a work, a count and a value, and more.
fn draw_growth(rounds: &str, file: &str) -> Result<(), Box<dyn Error>> {
    let text = std::fs::read_to_string(rounds).map_err(|error| format!("{rounds}: {error}"))?;
    let mut values: BTreeMap<(&str, u64), Vec<f64>> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (Some(work), Some(count), Some(value)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(format!("{rounds}: {line}").into());
        };
        values.entry((work, count.parse()?)).or_default().push(value.parse()?);
    }
    let points = |work: &str| -> Vec<(f64, f64)> {
        let of_work = values.iter().filter(|((name, _), _)| *name == work);
        of_work.map(|(&(_, count), values)| (count as f64, summary(work, values).median)).collect()
    };
    let all: Vec<_> = CURVES.iter().flat_map(|(work, ..)| points(work)).collect();
    let counts = all.iter().map(|&(count, _)| count);
    let (fewest, most) = (counts.clone().fold(f64::INFINITY, f64::min), counts.fold(1.0, f64::max));
    let dearest = all.iter().map(|&(_, value)| value).fold(10.0, f64::max);
    let root = SVGBackend::new(file, (WIDTH, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Cost of an operation, by how many greenlets there are", ("sans-serif", 24))
        .margin(15)
        .margin_right(60)
        .x_label_area_size(45)
        .y_label_area_size(80)
        .build_cartesian_2d((fewest..most).log_scale(), (5.0..dearest * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("greenlets (echo: connections), logarithmic")
        .y_desc("ns, logarithmic")
        .label_style(("sans-serif", 14))
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(220, 220, 220))
        .draw()?;
    for (work, title, colour) in CURVES {
        let points = points(work);
        chart
            .draw_series([PathElement::new(points.clone(), colour.stroke_width(2))])?
            .label(*title)
            .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], colour.stroke_width(3)));
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, colour.filled())))?;
        chart.draw_series(
            points
                .iter()
                .map(|&point| Text::new(short(point.1), point, ("sans-serif", 13).into_font().color(colour))),
        )?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleLeft)
        .background_style(WHITE)
        .border_style(RGBColor(220, 220, 220))
        .label_font(("sans-serif", 15))
        .draw()?;
    root.present()?;
    Ok(())
}
