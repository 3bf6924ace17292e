//! Behaviour that applications rely on, through the kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};

use fdfs_tests::mount::Mount;
use fdfs_tests::need;
use fdfs_tests::tree::Random;

fn with_mount(test: impl FnOnce(&std::path::Path)) {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::embedded(&dir.path().join("mnt"), &dir.path().join("data")).unwrap();
    test(mount.path());
    mount.unmount().unwrap();
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    with_mount(|root| {
        let path = root.join("file");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.write_all(b"before").unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.write_all(b" after").unwrap();
        file.sync_all().unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before after");
        assert!(!path.exists());
    });
}

#[test]
fn who_has_looked_a_file_up_can_still_open_it_when_it_is_gone() {
    with_mount(|root| {
        let (a, b, dir) = (root.join("a"), root.join("b"), root.join("dir"));
        fs::write(&a, "old").unwrap();
        fs::create_dir(&dir).unwrap();
        let seen = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&a).unwrap();
        let inside = File::open(&dir).unwrap();
        fs::write(&b, "new").unwrap();
        fs::rename(&b, &a).unwrap();
        fs::remove_dir(&dir).unwrap();
        assert_eq!((seen.metadata().unwrap().nlink(), inside.metadata().unwrap().nlink()), (0, 0));
        let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&seen));
        assert_eq!(fs::read_to_string(again).unwrap(), "old");
        assert_eq!(fs::read_to_string(&a).unwrap(), "new");
        // As editors do: there is never a moment without the file.
        std::thread::scope(|s| {
            let writer = s.spawn(|| {
                for i in 0..1000 {
                    fs::write(&b, i.to_string()).unwrap();
                    fs::rename(&b, &a).unwrap();
                }
            });
            while !writer.is_finished() {
                fs::read_to_string(&a).unwrap();
            }
            writer.join().unwrap();
        });
    });
}

#[test]
fn rename_replaces_atomically_and_respects_its_flags() {
    with_mount(|root| {
        let (a, b) = (root.join("a"), root.join("b"));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        fs::rename(&a, &b).unwrap();
        assert_eq!(fs::read_to_string(&b).unwrap(), "a");
        assert!(!a.exists());
        let dir = root.join("dir");
        fs::create_dir_all(dir.join("sub")).unwrap();
        assert!(fs::rename(&b, &dir).is_err(), "a file replaced a directory");
        assert!(fs::rename(&dir, dir.join("sub/below")).is_err(), "a directory moved into itself");
        fs::create_dir(root.join("full")).unwrap();
        fs::write(root.join("full/x"), "").unwrap();
        assert_eq!(fs::rename(&dir, root.join("full")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    });
}

#[test]
fn writes_at_any_offset_and_sparse_files() {
    with_mount(|root| {
        let path = root.join("sparse");
        let file = File::create(&path).unwrap();
        file.write_all_at(b"end", 3_000_000).unwrap();
        file.write_all_at(b"start", 0).unwrap();
        drop(file);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3_000_003);
        let mut buf = [1u8; 8];
        file.read_exact_at(&mut buf, 1_500_000).unwrap();
        assert_eq!(buf, [0; 8]);
        file.write_all_at(b"middle", 1_500_000).unwrap();
        file.set_len(1_500_003).unwrap();
        drop(file);
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[..5], &bytes[1_500_000..]), (1_500_003, &b"start"[..], &b"mid"[..]));
        File::options().write(true).open(&path).unwrap().set_len(2_000_000).unwrap();
        assert_eq!(&fs::read(&path).unwrap()[1_500_000..1_500_006], b"mid\0\0\0");
    });
}

#[test]
fn appending_writers_do_not_overwrite_each_other() {
    with_mount(|root| {
        let path = root.join("log");
        std::thread::scope(|s| {
            for t in 0..4 {
                let path = &path;
                s.spawn(move || {
                    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
                    for i in 0..100 {
                        file.write_all(format!("{t}:{i:03}\n").as_bytes()).unwrap();
                    }
                });
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 400);
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 400);
    });
}

#[test]
fn listings_are_complete_while_the_directory_changes() {
    with_mount(|root| {
        for i in 0..3000 {
            File::create(root.join(format!("stay{i}"))).unwrap();
        }
        let mut seen = 0;
        for (n, entry) in fs::read_dir(root).unwrap().enumerate() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            seen += usize::from(name.starts_with("stay"));
            if n % 10 == 0 {
                File::create(root.join(format!("new{n}"))).unwrap();
                let _ = fs::remove_file(root.join(format!("new{}", n.saturating_sub(100))));
            }
        }
        assert_eq!(seen, 3000);
    });
}

#[test]
fn special_files_links_and_attributes() {
    with_mount(|root| {
        let path = root.join("file");
        fs::write(&path, "x").unwrap();
        fs::hard_link(&path, root.join("hard")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().nlink(), 2);
        symlink("some/where", root.join("link")).unwrap();
        assert_eq!(fs::read_link(root.join("link")).unwrap().to_str(), Some("some/where"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).unwrap();
        assert_eq!(fs::metadata(root.join("hard")).unwrap().mode() & 0o7777, 0o4711);
        assert_eq!(fs::metadata(root).unwrap().nlink(), 2);
        fs::create_dir(root.join("d")).unwrap();
        assert_eq!(fs::metadata(root).unwrap().nlink(), 3);
        let long = "n".repeat(256);
        assert_eq!(File::create(root.join(long)).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
        assert!(
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).is_err(),
            "O_EXCL opened an existing file"
        );
    });
}

#[test]
fn mapped_memory_sees_and_makes_changes() {
    with_mount(|root| {
        let path = root.join("mapped");
        let content = Random(1).bytes(200_000);
        fs::write(&path, &content).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        // SAFETY: a shared mapping of an open file of that length, unmapped before anything else touches it.
        unsafe {
            use std::os::fd::AsRawFd;
            let p = libc::mmap(
                std::ptr::null_mut(),
                content.len(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            );
            assert_ne!(p, libc::MAP_FAILED);
            let bytes = std::slice::from_raw_parts_mut(p.cast::<u8>(), content.len());
            assert!(bytes == content);
            bytes[100_000..100_006].copy_from_slice(b"mapped");
            assert_eq!(libc::msync(p, content.len(), libc::MS_SYNC), 0);
            assert_eq!(libc::munmap(p, content.len()), 0);
        }
        drop(file);
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(100_000)).unwrap();
        let mut buf = [0; 6];
        file.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"mapped");
    });
}
