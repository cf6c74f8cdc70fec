//! Configuration only, no code generation: turns what the target can do into `cfg`s, so that the
//! source says `cfg(overflow_report)` instead of repeating lists of platforms, and stops the build with a
//! sentence where the library cannot work at all.
//!
//! - `interpose`: the platform resolves libc's symbols to ours (the base of monkey patching), and a
//!   variadic function may be defined with fixed arguments there.
//! - `overflow_report`: the thread's own stack bounds can be asked for (`pthread_getattr_np`).

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(interpose)");
    println!("cargo::rustc-check-cfg=cfg(overflow_report)");

    let target = |what: &str| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    let (family, os, arch, width) = (target("FAMILY"), target("OS"), target("ARCH"), target("POINTER_WIDTH"));

    if !family.split(',').any(|f| f == "unix") {
        stop(&format!("it needs a Unix (mmap, signals, file descriptors), and the target is `{os}`"));
    }
    if width != "64" {
        stop(&format!(
            "it reserves address space for every stack, which {width}-bit targets do not have enough of"
        ));
    }
    if !["x86_64", "aarch64", "riscv64", "loongarch64"].contains(&arch.as_str()) {
        stop(&format!("corosensei cannot switch stacks on `{arch}`"));
    }
    if os == "linux" {
        println!("cargo::rustc-cfg=overflow_report");
        if ["x86_64", "aarch64"].contains(&arch.as_str()) {
            println!("cargo::rustc-cfg=interpose");
        }
    }
}

fn stop(why: &str) -> ! {
    println!("cargo::error=switchgrass cannot be built for this target: {why}");
    std::process::exit(1);
}
