//! Under `panic = "abort"`, where nothing can unwind, kill and timeout say so; all else works.
//!
//! Builds `tests/fixtures/panic_abort.rs` with that setting, which a test itself cannot have.

use std::path::Path;
use std::process::{Command, Output};

fn run(target: &Path, what: &str) -> Output {
    Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--example", "panic_abort", "--config", "profile.dev.panic=\"abort\""])
        .arg("--target-dir")
        .arg(target)
        .args(["--", what])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs")
}

#[test]
fn kill_timeout_and_throw_name_panic_abort_and_the_rest_works() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("panic_abort");
    let works = run(&target, "rest");
    assert!(works.status.success(), "{works:?}");
    assert_eq!(String::from_utf8_lossy(&works.stdout), "works\n");

    for what in ["kill", "timeout", "throw"] {
        let output = run(&target, what);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{what} went on");
        assert!(text.contains(&format!("{what}() works by unwinding")), "{what}: {text}");
        assert!(text.contains("panic = \"abort\""), "{what}: {text}");
    }
}
