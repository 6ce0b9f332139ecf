//! Log lines on their way out: handed to one thread that writes them in large pieces. A reader that stands still (a full
//! pipe) must not stop the gateway: lines that find the queue full are dropped, and their number is told later.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// Makes a writer for each line.
#[derive(Clone)]
pub(super) struct Lines {
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

enum Line {
    Text(Vec<u8>),
    /// All that came before is written when this is answered.
    Flush(SyncSender<()>),
}

impl Lines {
    pub fn to(out: impl Write + Send + 'static) -> io::Result<Lines> {
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let told = dropped.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || write_out(out, &lines, &told))?;
        Ok(Lines { queue, dropped })
    }

    /// Waits a moment for what is queued.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        let deadline = Instant::now() + FLUSH;
        let mut ask = Line::Flush(done);
        while let Err(TrySendError::Full(again)) = self.queue.try_send(ask) {
            if Instant::now() >= deadline {
                return;
            }
            ask = again;
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _: Result<(), RecvTimeoutError> = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> &'a Lines {
        self
    }
}

/// The formatter writes each line with one call, requests several.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Line::Text(line.to_vec())) {
            self.dropped.fetch_add(memchr::memchr_iter(b'\n', line).count() as u64, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_out(mut out: impl Write, lines: &Receiver<Line>, dropped: &AtomicU64) {
    let mut piece = Vec::with_capacity(PIECE);
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        let mut waiting = None;
        while let Some(line) = next {
            match line {
                Line::Text(text) => piece.extend_from_slice(&text),
                Line::Flush(done) => waiting = Some(done),
            }
            next = if piece.len() < PIECE && waiting.is_none() { lines.try_recv().ok() } else { None };
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(piece, "{{\"level\":\"WARN\",\"message\":\"log lines were dropped\",\"dropped\":{lost}}}");
        }
        // A log that cannot be written has nowhere to be reported.
        let _ = out.write_all(&piece).and_then(|()| out.flush());
        piece.clear();
        if let Some(done) = waiting {
            let _ = done.send(());
        }
    }
}

/// About 4 MB of lines at most.
const QUEUE: usize = 8_192;
const PIECE: usize = 64 * 1024;
const FLUSH: Duration = Duration::from_secs(2);
