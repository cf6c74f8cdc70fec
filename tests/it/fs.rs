//! Files through the pool: as std's, and others run meanwhile.

use std::ffi::{CString, OsString};
use std::fs::{FileTimes, TryLockError};
use std::io::{ErrorKind, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use switchgrass::fs::{self, File};
use switchgrass::{scope, spawn, timeout, yield_now};

use crate::util::{OnDrop, catch, is_exit, secs, time_limit};

/// A directory of one test's own.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("switchgrass-fs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Dir(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

// ---- Functions ----------------------------------------------------------------------------------------------------------

#[test]
fn whole_files_are_written_read_copied_renamed_and_removed() {
    time_limit();
    let dir = Dir::new();
    let (a, b, c) = (dir.path("a"), dir.path("b"), dir.path("c"));
    fs::write(&a, "grass").unwrap();
    assert_eq!(fs::read(&a).unwrap(), b"grass");
    assert_eq!(fs::read_to_string(&a).unwrap(), "grass");
    assert_eq!(fs::copy(&a, &b).unwrap(), 5);
    fs::rename(&b, &c).unwrap();
    assert_eq!((fs::exists(&b).unwrap(), fs::exists(&c).unwrap()), (false, true));
    assert_eq!(fs::metadata(&c).unwrap().len(), 5);
    fs::remove_file(&c).unwrap();
    assert_eq!(kind(fs::read(&c)), ErrorKind::NotFound);
    fs::write(&a, [0xff, 0xfe]).unwrap();
    assert_eq!(kind(fs::read_to_string(&a)), ErrorKind::InvalidData);
}

#[test]
fn links_are_made_and_followed() {
    time_limit();
    let dir = Dir::new();
    let (a, hard, soft) = (dir.path("a"), dir.path("hard"), dir.path("soft"));
    fs::write(&a, "grass").unwrap();
    fs::hard_link(&a, &hard).unwrap();
    fs::symlink(&a, &soft).unwrap();
    assert_eq!(fs::read(&hard).unwrap(), fs::read(&soft).unwrap());
    assert_eq!(fs::read_link(&soft).unwrap(), a);
    assert!(fs::symlink_metadata(&soft).unwrap().is_symlink() && fs::metadata(&soft).unwrap().is_file());
    assert_eq!(fs::canonicalize(&soft).unwrap(), std::fs::canonicalize(&a).unwrap());
}

#[test]
fn directories_are_made_listed_and_removed() {
    time_limit();
    let dir = Dir::new();
    let deep = dir.path("x/y/z");
    assert_eq!(kind(fs::create_dir(&deep)), ErrorKind::NotFound);
    fs::create_dir_all(&deep).unwrap();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.path("p/q")).unwrap();
    assert_eq!(fs::metadata(dir.path("p")).unwrap().permissions().mode() & 0o777, 0o700);
    fs::DirBuilder::new().create(dir.path("r")).unwrap();
    assert_eq!(kind(fs::remove_dir(dir.path("x"))), ErrorKind::DirectoryNotEmpty);
    fs::remove_dir(&deep).unwrap();
    fs::remove_dir_all(dir.path("x")).unwrap();
    assert_eq!(kind(fs::read_dir(dir.path("x"))), ErrorKind::NotFound);

    fs::write(dir.path("file"), "").unwrap();
    let mut entries: Vec<_> = fs::read_dir(&dir.0).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(|entry| entry.file_name());
    assert!(entries.iter().map(|entry| entry.file_name()).eq(["file", "p", "r"]));
    assert_eq!(entries[0].path(), dir.path("file"));
    assert!(entries[0].file_type().unwrap().is_file() && entries[1].metadata().unwrap().is_dir());
    assert_ne!(entries[0].ino(), entries[1].ino());
}

#[test]
fn a_directory_of_several_batches_is_listed_once_and_in_full() {
    time_limit();
    for count in [0, 255, 256, 257, 600] {
        let dir = Dir::new();
        (0..count).for_each(|n| drop(std::fs::File::create(dir.path(&format!("{n:03}"))).unwrap()));
        let mut listing = fs::read_dir(&dir.0).unwrap();
        let mut names: Vec<_> = listing.by_ref().map(|entry| entry.unwrap().file_name()).collect();
        assert!(listing.next().is_none());
        names.sort();
        assert!(names.into_iter().eq((0..count).map(|n| OsString::from(format!("{n:03}")))));
    }
}

// ---- File ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_file_reads_writes_and_seeks_as_std_does() {
    time_limit();
    let dir = Dir::new();
    let path = dir.path("a");
    let mut file = File::create_new(&path).unwrap();
    assert_eq!(kind(File::create_new(&path)), ErrorKind::AlreadyExists);
    file.write_all(b"hello ").unwrap();
    (&file).write_all(b"world").unwrap();
    assert_eq!(file.write_vectored(&[IoSlice::new(b"!"), IoSlice::new(b""), IoSlice::new(b"?")]).unwrap(), 2);
    file.flush().unwrap();
    assert_eq!(file.stream_position().unwrap(), 13);
    assert_eq!(file.seek(SeekFrom::Start(6)).unwrap(), 6);
    let mut text = String::from("> ");
    assert_eq!(file.read_to_string(&mut text).unwrap(), 7);
    assert_eq!(text, "> world!?");
    assert_eq!(file.read(&mut [0; 8]).unwrap(), 0);

    (&file).rewind().unwrap();
    let mut five = [0; 5];
    (&file).read_exact(&mut five).unwrap();
    assert_eq!(&five, b"hello");
    let mut rest = b"hello".to_vec();
    assert_eq!(file.read_to_end(&mut rest).unwrap(), 8);
    assert_eq!(rest, b"hello world!?");
    assert_eq!(kind(file.read_exact(&mut five)), ErrorKind::UnexpectedEof);

    file.write_all_at(b"HELLO", 0).unwrap();
    file.read_exact_at(&mut five, 0).unwrap();
    assert_eq!((&five, file.stream_position().unwrap()), (b"HELLO", 13));
    // A duplicate has the same cursor.
    let mut same = file.try_clone().unwrap();
    same.rewind().unwrap();
    assert_eq!(file.stream_position().unwrap(), 0);

    // What cannot be done is std's error.
    assert_eq!(kind(File::open(dir.path("none"))), ErrorKind::NotFound);
    assert!(File::open(&path).unwrap().write(b"x").is_err());
    assert!(File::create(&path).unwrap().read(&mut five).is_err());
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn settings_of_a_file_are_stds() {
    time_limit();
    let dir = Dir::new();
    let path = dir.path("a");
    let file = File::options().read(true).append(true).create(true).mode(0o600).open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    file.set_permissions(PermissionsExt::from_mode(0o640)).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    file.set_len(100).unwrap();
    (&file).write_all(b"end").unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 103);
    let time = SystemTime::UNIX_EPOCH + secs(1_000_000);
    file.set_modified(time).unwrap();
    assert_eq!(file.metadata().unwrap().modified().unwrap(), time);
    file.set_times(FileTimes::new().set_accessed(time)).unwrap();
    assert_eq!(file.metadata().unwrap().accessed().unwrap(), time);

    let mut std = file.try_into_std().unwrap();
    std.write_all(b"!").unwrap();
    let mut ours = File::from(OwnedFd::from(std));
    ours.seek(SeekFrom::Start(100)).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text, "end!");
}

#[test]
fn more_than_one_job_can_move_is_moved_by_several() {
    time_limit();
    let dir = Dir::new();
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut file = File::create_new(dir.path("a")).unwrap();
    assert_eq!(file.write(&bytes).unwrap(), 2 << 20);
    file.write_all(&bytes[2 << 20..]).unwrap();
    file.rewind().unwrap();
    let mut back = vec![0; bytes.len()];
    assert_eq!(file.read(&mut back).unwrap(), 2 << 20);
    file.read_exact(&mut back[2 << 20..]).unwrap();
    assert!(back == bytes);
    file.rewind().unwrap();
    back.clear();
    file.read_to_end(&mut back).unwrap();
    assert!(back == bytes && fs::read(dir.path("a")).unwrap() == bytes);
}

#[test]
fn locks_exclude_others_and_waiting_for_one_takes_no_thread() {
    time_limit();
    let dir = Dir::new();
    let path = dir.path("a");
    let (one, two) = (File::create_new(&path).unwrap(), File::open(&path).unwrap());
    one.lock().unwrap();
    assert!(matches!(two.try_lock(), Err(TryLockError::WouldBlock)));
    assert!(timeout(Duration::from_millis(3), || two.lock()).is_err());
    scope(|s| {
        let waits = s.spawn(|| two.lock_shared());
        yield_now();
        assert!(!waits.is_ready());
        one.unlock().unwrap();
        waits.join().unwrap().unwrap();
    });
    one.try_lock_shared().unwrap();
    assert!(one.try_lock().is_err());
}

// ---- Others run meanwhile -------------------------------------------------------------------------------------------------

/// A pipe in the file system: reading from it waits for a writer, as from a disk that takes its time.
fn fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

#[test]
fn others_run_while_a_greenlet_waits_for_a_file() {
    time_limit();
    let dir = Dir::new();
    let path = dir.path("fifo");
    fifo(&path);
    let read = spawn({
        let path = path.clone();
        move || fs::read_to_string(path).unwrap()
    });
    yield_now();
    // Would wait forever, were the reader not being served by another thread.
    let write = spawn(move || fs::write(path, "grass").unwrap());
    assert_eq!(read.join().unwrap(), "grass");
    write.join().unwrap();
}

#[test]
fn a_read_that_was_abandoned_by_a_kill_touches_the_buffer_no_more() {
    time_limit();
    let dir = Dir::new();
    let path = dir.path("fifo");
    fifo(&path);
    // Opened both ways, a pipe waits for neither side.
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut buffer = [7_u8; 64];
    loop {
        scope(|s| {
            let victim = s.spawn(|| (&file).read(&mut buffer));
            (0..100).for_each(|_| yield_now());
            victim.kill();
            assert!(is_exit(&victim.join().map(drop)));
        });
        (&file).write_all(b"x").unwrap();
        // If that had begun, it takes what comes. If not, it was taken back, and we find it.
        let found = timeout(Duration::from_millis(20), || (&file).read(&mut [0; 64]));
        assert_eq!(buffer, [7; 64]);
        if found.is_err() {
            // So was this read: the thread that does it has to end, too.
            return (&file).write_all(b"x").unwrap();
        }
    }
}

#[test]
fn in_a_destructor_that_unwinds_files_work_in_place() {
    let dir = Dir::new();
    let path = dir.path("a");
    let _ = catch(|| {
        let _guard = OnDrop(|| {
            let mut file = File::create(&path).unwrap();
            file.write_all(b"last words").unwrap();
        });
        panic!("on purpose");
    });
    assert_eq!(fs::read(path).unwrap(), b"last words");
}
