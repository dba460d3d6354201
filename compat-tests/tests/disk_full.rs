//! A disk that runs full: reads go on, writes are told, and it is over when there is space again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use compat_tests::servers::{Kind, Options, Server, skip};
use dq_client::{Config, MemStore, Pool, RetryPolicy};

const PATIENCE: Duration = Duration::from_secs(60);

/// A small file system of its own; needs root.
struct Small(PathBuf);

impl Small {
    fn mount(size: &str) -> Option<Small> {
        let dir = std::env::temp_dir().join(format!("dq-small-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&dir)
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            let _ = std::fs::remove_dir(&dir);
            return None;
        }
        Some(Small(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn pool(server: &Server) -> Pool {
    Config::new()
        .retry(RetryPolicy::never())
        .request_timeout(Some(Duration::from_secs(20)))
        .connect(MemStore::new([server.address()]), "full")
        .expect("the settings are fine")
}

fn fill(path: &Path) {
    // As much as there is: the error at the end is the point.
    let _ = std::fs::write(path, vec![1; 64 << 20]);
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers_by_itself() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let Some(small) = Small::mount("64m") else {
        return skip("a file system cannot be mounted here");
    };
    let options = Options {
        parent_dir: Some(small.0.clone()),
        ..Options::default()
    };
    let server = Server::start(Kind::Ours, options).expect("the server starts");
    server.wait_leader(server.address()).expect("it leads");
    let pool = pool(&server);
    pool.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)", ())
        .expect("created");
    let ballast = small.0.join("ballast");
    fill(&ballast);

    let deadline = Instant::now() + PATIENCE;
    let mut written = 0i64;
    let refusal = loop {
        assert!(Instant::now() < deadline, "it never became full");
        match pool.execute("INSERT INTO t (body) VALUES (randomblob(20000))", ()) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal.sqlite_code(), Some(13), "{refusal}");
    assert!(refusal.message().contains("full"), "{refusal}");
    let count = |pool: &Pool| -> i64 {
        pool.query("SELECT count(*) FROM t", (), |row| row.get(0))
            .expect("reads go on")[0]
    };
    assert_eq!(count(&pool), written);

    std::fs::remove_file(&ballast).expect("it can be removed");
    while let Err(error) = pool.execute("INSERT INTO t (body) VALUES ('after')", ()) {
        assert_eq!(error.sqlite_code(), Some(13), "{error}\n{}", server.log());
        assert!(
            Instant::now() < deadline,
            "it does not recover: {}",
            server.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(count(&pool), written + 1);
}
