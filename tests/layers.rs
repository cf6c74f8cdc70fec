//! Modules import from lower layers only.

use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first. A module may use those of the lines above its own. `lib` sees all.
const LAYERS: &[&[&str]] = &[
    &["sys"],
    &["coro"],
    &["task"],
    &["hub"],
    &["wait", "timeout", "switch", "generator", "threadpool", "descriptor", "stats", "trace"],
    &["dns", "fs", "select", "sync", "channel", "queue", "local", "dump", "monitor"],
    &["greenlet", "net"],
    &["ready", "signal", "io", "hubs"],
    &["process", "server", "pool"],
    &["backdoor", "monkey"],
    &["testing"],
];

#[test]
fn modules_import_from_lower_layers_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let own = module_of(&src, &file);
        if own == "lib" {
            continue;
        }
        for used in imports(&fs::read_to_string(&file).unwrap()) {
            if used != own && layer(&used) >= layer(&own) {
                wrong.push(format!("{} uses crate::{used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where `unsafe` is allowed, and argued. All other files inherit `deny(unsafe_code)` from `lib.rs`, or forbid it.
const UNSAFE: &[&str] = &[
    "channel/select.rs",
    "coro/mod.rs",
    "descriptor/mod.rs",
    "greenlet/mod.rs",
    "greenlet/result.rs",
    "hub/mod.rs",
    "hubs/mod.rs",
    "monkey/mod.rs",
    "process/command.rs",
    "server/prefork.rs",
    "switch.rs",
    "sync/mutex.rs",
    "sync/reentrant.rs",
    "sync/rwlock.rs",
    "sys/mod.rs",
    "task/mod.rs",
    "threadpool/per_process.rs",
    "threadpool/scope.rs",
    "timeout.rs",
    "wait.rs",
];

#[test]
fn unsafe_is_allowed_where_it_is_listed_and_nowhere_else() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut found: Vec<_> = files
        .iter()
        .filter(|file| fs::read_to_string(file).unwrap().contains("#![allow(unsafe_code)]"))
        .map(|file| file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort_unstable();
    assert_eq!(found, UNSAFE);
}

/// A child that is forked while another thread makes the value would wait for that thread for ever.
#[test]
fn no_static_is_a_lazy_lock() {
    let is_one = |line: &str| {
        !line.trim_start().starts_with("//") && line.contains("static ") && line.contains(": LazyLock<")
    };
    assert!(is_one("static CORES: LazyLock<bool> ="));
    let mut files = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    files.retain(|file| fs::read_to_string(file).unwrap().lines().any(is_one));
    assert!(files.is_empty(), "{files:?}");
}

#[test]
fn the_scan_sees_every_form_of_import() {
    let text = "
        use crate::{a::{B, c}, d, e as f};
        use crate::g;
        fn f(x: &crate::h::I) -> crate::j::K {}
        // crate::comment
        macro_rules! m { () => { $crate::l::m!(); $crate::n!() } }
        pub(crate) fn n() {}
    ";
    assert_eq!(imports(text), ["a", "d", "e", "g", "h", "j", "l"]);
}

#[test]
fn every_test_that_the_table_of_gevents_behaviours_names_exists() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let table = fs::read_to_string(tests.join("GEVENT.md")).unwrap();
    let exists = |name: &str| {
        let (module, test) = name.split_once("::")?;
        let file = ["it", ""].iter().map(|dir| tests.join(dir).join(module).with_extension("rs"));
        let text = file.filter_map(|file| fs::read_to_string(file).ok()).next()?;
        // A function, or a case of a crate with a harness of its own.
        [format!("fn {test}("), format!("    {test};"), format!("    {test} {{"), format!("    {test}:")]
            .iter()
            .any(|form| text.contains(form))
            .then_some(())
    };
    let names = table
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains("::") && !name.contains(char::is_uppercase) && !name.contains("()"));
    let missing: Vec<_> = names.filter(|name| *name != "module::name" && exists(name).is_none()).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|line| line.contains(&module))
        .unwrap_or_else(|| panic!("module `{module}` has no place in LAYERS yet"))
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `src/hub/timers.rs` belongs to `hub`, `src/dns.rs` to `dns`.
fn module_of(src: &Path, file: &Path) -> String {
    let first = file.strip_prefix(src).unwrap().iter().next().unwrap().to_str().unwrap();
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

/// The modules that follow a `crate::`, outside of comments.
fn imports(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or("")).collect();
    let mut found = Vec::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            None if after[first_name(after).len()..].starts_with('!') => {}
            None => found.push(first_name(after)),
            Some(group) => found.extend(top_level_items(group).map(first_name)),
        }
    }
    // A name in capitals is a re-export of `lib`.
    found.retain(|name| name.starts_with(char::is_lowercase));
    found
}

/// The items of a `{…}` whose opening brace is cut off; what is in braces within them is left out.
fn top_level_items(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let end = group
        .find(|c| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth < 0
        })
        .unwrap_or(group.len());
    let mut depth = 0;
    group[..end].split(move |c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0 && c == ','
    })
}

fn first_name(path: &str) -> String {
    path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}
