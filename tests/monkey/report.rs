//! Whose the symbols are.

use std::ffi::{CStr, CString, c_char};

use switchgrass::monkey::{self, Parts};

use crate::util::patched;

#[test]
fn all_symbols_of_a_program_are_ours_and_all_parts_patched() {
    patched();
    let report = monkey::report();
    assert!(monkey::is_patched(Parts::ALL));
    assert!(!monkey::is_patched(Parts::FILES), "files go straight through unless that is asked for");
    assert!(report.symbols.len() > 50);
    for symbol in &report.symbols {
        assert!(symbol.is_ours, "{symbol:?}");
    }
    let text = report.to_string();
    assert!(text.contains("patched: TIME | SOCKETS"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("recv ") && line.ends_with("switchgrass")), "{text}");
}

#[test]
fn a_shared_library_is_told_which_symbol_it_did_not_get() {
    let target = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin");
    let built = std::process::Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "plugin", "--features", "monkey", "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    let library = target.join("debug/examples/libplugin.so");
    let path = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the library has no initializers that matter; the name and the signature are those of `tests/fixtures/plugin.rs`.
    let patches: unsafe extern "C" fn(*mut c_char, usize) = unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(!handle.is_null(), "{} was just built", library.display());
        std::mem::transmute(libc::dlsym(handle, c"plugin_patches".as_ptr()))
    };
    let mut text = [0; 1000];
    // SAFETY: so much room is given, and what is written ends with a zero.
    let why = unsafe {
        patches(text.as_mut_ptr(), text.len());
        CStr::from_ptr(text.as_ptr())
    };
    let why = why.to_str().unwrap();
    assert!(why.contains("the symbol `sleep` of this program is not switchgrass's"), "{why}");
}

#[test]
fn the_originals_block_the_thread() {
    patched();
    let other = switchgrass::spawn(|| ());
    // SAFETY: takes no pointers.
    unsafe { monkey::originals::usleep(1000) };
    assert!(!other.is_ready(), "nobody ran meanwhile");
    // SAFETY: as above.
    unsafe { libc::usleep(1000) };
    assert!(other.is_ready());
}

#[test]
fn in_a_region_without_switches_calls_block_the_thread() {
    patched();
    let other = switchgrass::spawn(|| ());
    monkey::no_switch(|| std::thread::sleep(std::time::Duration::from_millis(1)));
    assert!(!other.is_ready(), "nobody ran meanwhile");
    std::thread::sleep(std::time::Duration::from_millis(1));
    assert!(other.is_ready());
}
