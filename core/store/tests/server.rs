//! A real redis-server for tests, on a port of its own, and a client of a few lines that asks it what no gateway would. Shared
//! with the black-box tests. Where there is no redis-server a test says that it was skipped, or fails if it must not be.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub struct Server {
    child: Option<Child>,
    pub port: u16,
    args: Vec<String>,
    /// What it finds in its environment besides.
    env: Vec<(String, String)>,
    pub dir: tempfile::TempDir,
}

/// What Redis answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Text(String),
    Error(String),
    Int(i64),
    Nil,
    List(Vec<Reply>),
}

impl Server {
    /// `None`: there is no redis-server here, and that is allowed.
    pub fn start(args: &[&str]) -> Option<Server> {
        Server::in_env(args, &[])
    }

    /// The same with more in its environment.
    #[allow(
        clippy::disallowed_methods,
        clippy::print_stdout,
        reason = "tests are told by their environment what they may skip, and wait on their own threads"
    )]
    pub fn in_env(args: &[&str], env: &[(String, String)]) -> Option<Server> {
        for _ in 0..20 {
            // Somebody else may be given the same port: then another one is tried.
            let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            let dir = tempfile::tempdir().expect("a folder");
            let mut server = Server { child: None, port, args, env: env.to_vec(), dir };
            match server.run() {
                Ok(true) => return Some(server),
                Ok(false) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    let must = std::env::var_os("PORTCULLIS_NO_SKIP").is_some_and(|v| v == "1");
                    assert!(!must, "no redis-server (Debian: apt-get install redis-server), and PORTCULLIS_NO_SKIP=1");
                    println!("skipped: no redis-server");
                    return None;
                }
                Err(e) => panic!("redis-server: {e}"),
            }
        }
        panic!("no redis-server came up");
    }

    /// Starts it on its port and folder; `false`: it did not come up.
    #[allow(
        clippy::disallowed_methods,
        reason = "tests are told by their environment what they may skip, and wait on their own threads"
    )]
    pub fn run(&mut self) -> std::io::Result<bool> {
        let mut command = Command::new("redis-server");
        let port = self.port.to_string();
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
        command.arg("--dir").arg(self.dir.path()).args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if child.try_wait()?.is_some() {
                return Ok(false);
            }
            if self.try_ask(&["PING"]).is_some() {
                // It is ours, and not one that took the port before.
                let pid = self.try_ask(&["INFO", "server"]).map(|reply| format!("{reply:?}")).unwrap_or_default();
                self.child = Some(child);
                return Ok(pid.contains(&format!("process_id:{}", self.child.as_ref().map_or(0, Child::id)))
                    || pid.contains("NOAUTH"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        Ok(false)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn ask(&self, words: &[&str]) -> Reply {
        self.try_ask(words).unwrap_or_else(|| panic!("redis did not answer {words:?}"))
    }

    fn try_ask(&self, words: &[&str]) -> Option<Reply> {
        ask(self.port, words)
    }

    /// How often it was asked `command`, by its own count.
    pub fn calls(&self, command: &str) -> u64 {
        let Reply::Text(stats) = self.ask(&["INFO", "commandstats"]) else { return 0 };
        let line =
            stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls="))).unwrap_or("0");
        line.split(',').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It neither answers nor refuses.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().map_or(0, Child::id);
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().expect("sh");
        assert!(sent.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One question to whatever redis listens there.
pub fn ask(port: u16, words: &[&str]) -> Option<Reply> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let mut text = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| text.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    socket.write_all(text.as_bytes()).ok()?;
    read(&mut BufReader::new(socket))
}

fn read(socket: &mut BufReader<TcpStream>) -> Option<Reply> {
    let mut line = String::new();
    socket.read_line(&mut line).ok()?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1)?;
    Some(match kind {
        "+" => Reply::Text(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Int(rest.parse().ok()?),
        "$" => match rest.parse::<i64>().ok()? {
            -1 => Reply::Nil,
            size => {
                let mut bytes = vec![0; usize::try_from(size).ok()? + 2];
                socket.read_exact(&mut bytes).ok()?;
                bytes.truncate(bytes.len() - 2);
                Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
        },
        "*" => match rest.parse::<i64>().ok()? {
            -1 => Reply::Nil,
            count => Reply::List((0..count).map(|_| read(socket)).collect::<Option<_>>()?),
        },
        _ => return None,
    })
}
