//! Promises 20 to 25: streams that are left, that die, that arrive in any pieces, that nobody reads, that live long.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::{
    family::{Anthropic, FAMILIES, Family, Gemini, Openai, streamed},
    support::{End, Gateway, Process, Say, Upstream, begin, eventually, read_until},
};

const LONG: Duration = Duration::from_secs(60);

fn frames(family: Family, pieces: &[&str]) -> Say {
    let frames = family.frames(pieces);
    Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), Duration::ZERO)
}

/// What stands before the finish, pieces included.
fn unfinished(family: Family, pieces: &[&str]) -> Say {
    let mut frames = family.frames(pieces);
    frames.truncate(family.lead() + pieces.len());
    if family == Gemini {
        frames = family.frames(&[pieces, &["never sent"]].concat());
        frames.truncate(pieces.len());
    }
    Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), Duration::ZERO)
}

async fn pair(say: Say, format: &str, more: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let gateway = Gateway::start(&format!("{}{more}", upstream.provider("up", format))).await;
    (upstream, gateway)
}

async fn leave(gateway: &Gateway, upstream: &Upstream, family: Family, stream: bool, seen: Option<&str>) {
    let body = family.body("up/m", stream, "hello");
    let mut socket = begin(gateway.addr, "POST", &family.path("up/m", stream), &[], body.as_bytes()).await;
    upstream.hears(1).await;
    if let Some(text) = seen {
        read_until(&mut socket, text).await;
    }
    drop(socket);
    upstream.is_cancelled(1).await;
    let record = gateway.record(1).await;
    assert_eq!(
        (record["status"].as_u64(), record["error_code"].as_str()),
        (Some(499), Some("client_gone")),
        "{record}"
    );
}

#[tokio::test]
async fn a_client_that_leaves_while_waiting_for_the_head_cancels_the_upstream() {
    for family in FAMILIES {
        for stream in [true, false] {
            let (upstream, gateway) = pair(Say::json("{}").wait(LONG), "openai_chat", "").await;
            leave(&gateway, &upstream, family, stream, None).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_event_cancels_the_upstream() {
    for family in FAMILIES {
        let mut say = frames(Openai, &["hi"]);
        say.chunks[0].0 = LONG;
        let (upstream, gateway) = pair(say, "openai_chat", "").await;
        leave(&gateway, &upstream, family, true, None).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_mid_stream_cancels_the_upstream() {
    for client in FAMILIES {
        for format in FAMILIES {
            let (upstream, gateway) = pair(unfinished(format, &["seen"]).end(End::Stall), format.format(), "").await;
            leave(&gateway, &upstream, client, true, Some("seen")).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_an_unstreamed_answer_cancels_the_upstream() {
    for family in FAMILIES {
        let (upstream, gateway) = pair(Say::json("{\"id\":").end(End::Stall), "openai_chat", "").await;
        leave(&gateway, &upstream, family, false, None).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_that_a_stage_holds_back_cancels_the_upstream() {
    let upstream = Upstream::saying(unfinished(Openai, &["held"]).end(End::Stall)).await;
    let whole = "const STREAM = \"whole\";\nfn response(response, context) { }";
    let gateway = Gateway::with(&upstream.provider("up", "openai_chat"), &[("scripts/a.rhai", whole)]).await;
    leave(&gateway, &upstream, Openai, true, None).await;
}

#[tokio::test]
async fn usage_that_arrived_before_the_client_left_is_in_the_record() {
    let (upstream, gateway) = pair(unfinished(Anthropic, &["seen"]).end(End::Stall), "anthropic_messages", "").await;
    leave(&gateway, &upstream, Anthropic, true, Some("seen")).await;
    assert_eq!(gateway.record(1).await["usage"]["input_tokens"], 3);
}

#[tokio::test]
async fn requests_in_flight_are_counted_and_fall_back_to_none() {
    let upstream = Upstream::saying(unfinished(Openai, &["seen"]).end(End::Stall)).await;
    let gateway = Process::start(&upstream.provider("up", "openai_chat"), &[]).await;
    let body = Openai.body("up/m", true, "x");
    let socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    upstream.hears(1).await;
    let flying =
        async |n: &str| gateway.metrics().await.lines().any(|l| l == format!("portcullis_inflight_requests {n}"));
    eventually("one is in flight", async || flying("1").await).await;
    drop(socket);
    eventually("none is in flight", async || flying("0").await).await;
}

/// 21: every client format before every upstream format.
#[tokio::test]
async fn an_upstream_that_dies_mid_stream_is_one_error_event_and_never_an_end() {
    for client in FAMILIES {
        for format in FAMILIES {
            let (_upstream, gateway) =
                pair(unfinished(format, &["some", "thing"]).end(End::Cut), format.format(), "").await;
            let answer = client.ask(&gateway, "up/m", true).await;
            assert_eq!(answer.status, 200, "{client:?} of {format:?}: {}", answer.text());
            assert_eq!(client.text(&answer), "something", "{client:?} of {format:?}: {}", answer.text());
            let errors = client.stream_errors(&answer);
            assert_eq!(errors.len(), 1, "{client:?} of {format:?}: {}", answer.text());
            assert_eq!(errors[0].code, "upstream_disconnected");
            assert_eq!(client.terminals(&answer), 0, "{client:?} of {format:?}: {}", answer.text());
            assert_eq!(gateway.record(1).await["error_code"], "upstream_disconnected");
        }
    }
}

/// Neither is glued to the error behind it what lacked its empty line, nor what was cut off within.
#[tokio::test]
async fn an_error_behind_half_an_event_is_an_event_of_its_own() {
    for half in ["\n", "", "\n\ndata: {\"choices\":[{\"in"] {
        for client in FAMILIES {
            let mut say = unfinished(Openai, &["some", "thing"]);
            if let Some((_, last)) = say.chunks.last_mut() {
                let text = String::from_utf8_lossy(last).trim_end().to_owned();
                *last = format!("{text}{half}").into_bytes();
            }
            let (_upstream, gateway) = pair(say, Openai.format(), "").await;
            let answer = client.ask(&gateway, "up/m", true).await;
            assert_eq!(client.text(&answer), "something", "{client:?} {half:?}: {}", answer.text());
            assert_eq!(client.stream_errors(&answer).len(), 1, "{client:?} {half:?}: {}", answer.text());
        }
    }
}

/// A clean close without the format's terminal is a death too.
#[tokio::test]
async fn a_stream_without_its_terminal_is_dead_even_when_it_closes_well() {
    for client in FAMILIES {
        for format in FAMILIES {
            let (_upstream, gateway) = pair(unfinished(format, &["some", "thing"]), format.format(), "").await;
            let answer = client.ask(&gateway, "up/m", true).await;
            assert_eq!(client.stream_errors(&answer).len(), 1, "{client:?} of {format:?}: {}", answer.text());
            assert_eq!(client.terminals(&answer), 0, "{client:?} of {format:?}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn an_error_event_mid_stream_arrives_in_the_clients_own_shape() {
    for client in FAMILIES {
        for format in FAMILIES {
            let mut say = unfinished(format, &["some"]);
            say.chunks.push((Duration::ZERO, format.error_frame().into()));
            let (_upstream, gateway) = pair(say, format.format(), "").await;
            let answer = client.ask(&gateway, "up/m", true).await;
            assert_eq!(client.text(&answer), "some", "{client:?} of {format:?}: {}", answer.text());
            assert_eq!(client.terminals(&answer), 0, "{client:?} of {format:?}: {}", answer.text());
            assert!(answer.text().contains("gone wrong"), "{client:?} of {format:?}: {}", answer.text());
            if client == format {
                // As the upstream said it.
                assert!(answer.text().ends_with(format.error_frame()), "{client:?}: {}", answer.text());
            } else {
                assert_eq!(client.stream_errors(&answer).len(), 1, "{client:?} of {format:?}: {}", answer.text());
            }
        }
    }
}

/// 22
#[tokio::test]
async fn a_refusal_before_the_first_byte_keeps_its_real_status() {
    for client in FAMILIES {
        for format in FAMILIES {
            for (said, status) in
                [(400, 400), (404, 404), (422, 422), (429, 429), (401, 502), (500, 502), (503, 503), (504, 504)]
            {
                let (_upstream, gateway) =
                    pair(Say::error(said, &format.error_body(said, "so it is")), format.format(), "").await;
                for stream in [true, false] {
                    let answer = client.ask(&gateway, "up/m", stream).await;
                    assert_eq!(answer.status, status, "{client:?} of {format:?}, {said}: {}", answer.text());
                    // What is the caller's own fault is told in the upstream's words; what it says of our key is not.
                    assert!(
                        !matches!(said, 400 | 404 | 422) || answer.text().contains("so it is"),
                        "{}",
                        answer.text()
                    );
                    assert!(said != 401 || !answer.text().contains("so it is"), "{}", answer.text());
                    assert!(client == format || !client.error(&answer).code.is_empty());
                }
            }
        }
    }
}

#[tokio::test]
async fn an_error_as_the_first_event_is_a_real_status_and_another_target_is_tried() {
    for format in FAMILIES {
        let dead = Upstream::saying(Say::sse(format.error_frame())).await;
        let well = Upstream::saying(frames(format, &["well"])).await;
        let config = format!(
            "{}{}[models.m]\ntargets = [{{ provider = \"dead\", model = \"m\" }}, {{ provider = \"well\", model = \"m\" }}]\n",
            dead.provider("dead", format.format()),
            well.provider("well", format.format())
        );
        for client in FAMILIES {
            let gateway = Gateway::start(&config).await;
            assert_eq!(client.ask(&gateway, "dead/m", true).await.status, 502, "{client:?} of {format:?}");
            let answer = client.ask(&gateway, "m", true).await;
            assert_eq!((answer.status, client.text(&answer).as_str()), (200, "well"), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_stream_that_dies_before_output_is_tried_elsewhere() {
    for format in FAMILIES {
        let mut say = unfinished(format, &["x"]).end(End::Cut);
        say.chunks.truncate(format.lead());
        let dead = Upstream::saying(say).await;
        let well = Upstream::saying(frames(format, &["well"])).await;
        let config = format!(
            "{}{}[models.m]\ntargets = [{{ provider = \"dead\", model = \"m\" }}, {{ provider = \"well\", model = \"m\" }}]\n",
            dead.provider("dead", format.format()),
            well.provider("well", format.format())
        );
        let gateway = Gateway::start(&config).await;
        for client in FAMILIES {
            let answer = client.ask(&gateway, "m", true).await;
            assert_eq!(
                (answer.status, client.text(&answer).as_str()),
                (200, "well"),
                "{client:?} of {format:?}: {}",
                answer.text()
            );
            assert_eq!(answer.header("x-portcullis-attempts"), Some("2"));
        }
    }
}

/// 23: byte by byte, CRLF, comments and data over several lines: the same words and the same end.
#[tokio::test]
async fn any_pieces_of_an_upstreams_bytes_give_the_same_answer() {
    let words = ["Grüße, ", "日本 ", "🦀", "\n\nend"];
    for format in FAMILIES {
        let plain = format.frames(&words).concat();
        let spoken: String = format.frames(&words).iter().map(|f| format!(": a comment\n\n{f}")).collect();
        let lines = plain.replace(",\"", ",\ndata: \"").replace("{\"", "{\ndata: \"");
        let variants = [
            ("whole", Say::sse(plain.clone())),
            ("byte by byte", Say::sse(plain.clone()).bytewise()),
            ("CRLF", Say::sse(plain.replace('\n', "\r\n")).bytewise()),
            ("CR", Say::sse(plain.replace('\n', "\r"))),
            ("comments", Say::sse(spoken).bytewise()),
            ("data over many lines", Say::sse(lines).bytewise()),
            ("no space after the colon", Say::sse(plain.replace("data: ", "data:"))),
            ("a byte order mark", Say::sse(format!("\u{feff}{plain}"))),
        ];
        for (name, say) in variants {
            let (_upstream, gateway) = pair(say, format.format(), "").await;
            for client in FAMILIES.into_iter().filter(|c| *c != format) {
                let answer = client.ask(&gateway, "up/m", true).await;
                assert_eq!(client.text(&answer), words.concat(), "{name}, {client:?} of {format:?}: {}", answer.text());
                assert_eq!(client.terminals(&answer), 1, "{name}, {client:?} of {format:?}: {}", answer.text());
                assert!(client.stream_errors(&answer).is_empty() && answer.complete);
            }
        }
    }
}

#[tokio::test]
async fn any_pieces_of_an_upstreams_bytes_go_through_unchanged_in_their_own_format() {
    let words = ["Grüße, ", "🦀"];
    for family in FAMILIES {
        let plain = family.frames(&words).concat();
        for bytes in [plain.clone(), plain.replace('\n', "\r\n"), format!(": hi\n\n{plain}")] {
            let (_upstream, gateway) = pair(Say::sse(bytes.clone()).bytewise(), family.format(), "").await;
            let answer = family.ask(&gateway, "up/m", true).await;
            assert_eq!(answer.text(), bytes, "{family:?}");
            assert!(answer.complete);
        }
    }
}

/// An upstream that ignores `stream: true`: the client still gets the stream it asked for.
#[tokio::test]
async fn a_whole_answer_to_a_streamed_question_is_streamed_on() {
    for client in FAMILIES {
        for format in FAMILIES {
            let (_upstream, gateway) = pair(Say::json(format.whole("all at once")), format.format(), "").await;
            let answer = client.ask(&gateway, "up/m", true).await;
            assert!(streamed(&answer), "{client:?} of {format:?}: {}", answer.text());
            assert_eq!(client.text(&answer), "all at once", "{client:?} of {format:?}: {}", answer.text());
            assert_eq!(client.terminals(&answer), 1, "{client:?} of {format:?}: {}", answer.text());
        }
    }
}

/// 24
#[tokio::test]
async fn an_endless_event_is_an_error_not_memory() {
    let limit = "[server]\nlisten = \"127.0.0.1:0\"\nmax_event = \"256KiB\"\n";
    for client in FAMILIES {
        for format in FAMILIES {
            let mut say = unfinished(format, &["some"]).end(End::Flood);
            say.chunks.push((Duration::ZERO, b"data: ".to_vec()));
            say.chunks.push((Duration::ZERO, vec![b'x'; 65536]));
            let (upstream, gateway) = pair(say, format.format(), limit).await;
            let answer = client.ask(&gateway, "up/m", true).await;
            assert_eq!(client.text(&answer), "some", "{client:?} of {format:?}");
            assert_eq!(client.stream_errors(&answer).len(), 1, "{client:?} of {format:?}");
            upstream.is_cancelled(1).await;
        }
    }
}

#[tokio::test]
async fn a_whole_answer_without_end_is_an_error_not_memory() {
    let limit = "[server]\nlisten = \"127.0.0.1:0\"\nmax_event = \"256KiB\"\n";
    for client in FAMILIES {
        for kind in ["application/json", "text/event-stream", "text/html"] {
            let (upstream, gateway) =
                pair(Say::of(200, kind, vec![b'x'; 65536]).end(End::Flood), "openai_chat", limit).await;
            let answer = client.ask(&gateway, "up/m", kind == "text/event-stream").await;
            assert_eq!(answer.status, 502, "{client:?} {kind}");
            assert!(client.error(&answer).message.contains("limit") || client.error(&answer).message.contains("over"));
            upstream.is_cancelled(1).await;
        }
    }
}

#[tokio::test]
async fn an_endless_refusal_is_an_error_not_memory() {
    for client in FAMILIES {
        let (upstream, gateway) =
            pair(Say::of(400, "text/html", vec![b'x'; 65536]).end(End::Flood), "openai_chat", "").await;
        let answer = client.ask(&gateway, "up/m", false).await;
        assert_eq!(client.error(&answer).code, "upstream_failed", "{}", answer.text());
        upstream.is_cancelled(1).await;
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_and_holds_no_more_than_sockets_do() {
    let stall = "[server]\nlisten = \"127.0.0.1:0\"\nwrite_stall = \"1s\"\n";
    for client in FAMILIES {
        let mut say = unfinished(Openai, &[&"many words ".repeat(1000)]);
        say = say.end(End::Flood);
        let (upstream, gateway) = pair(say, "openai_chat", stall).await;
        let body = client.body("up/m", true, "x");
        let socket = begin(gateway.addr, "POST", &client.path("up/m", true), &[], body.as_bytes()).await;
        upstream.is_cancelled(1).await;
        // The kernel's buffers on both sides hold a few megabytes; the gateway adds next to nothing.
        assert!(upstream.sent() < 48 << 20, "{} bytes were taken from the upstream", upstream.sent());
        drop(socket);
    }
}

/// 25
#[tokio::test]
async fn a_stream_outlives_every_timeout_but_the_idle_one() {
    let pieces: Vec<String> = (0..8).map(|n| format!("{n} ")).collect();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    for client in FAMILIES {
        let mut say = frames(Openai, &pieces);
        say.chunks.iter_mut().skip(2).for_each(|c| c.0 = Duration::from_millis(150));
        let timeouts = "timeouts = { first_event = \"600ms\", whole = \"600ms\", idle = \"2s\" }\n";
        let (_upstream, gateway) = pair(say, "openai_chat", timeouts).await;
        let answer = client.ask(&gateway, "up/m", true).await;
        assert_eq!(client.text(&answer), pieces.concat(), "{}", answer.text());
        assert_eq!(client.terminals(&answer), 1, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_silent_stream_is_cut_by_the_idle_timeout_with_an_error_event() {
    for client in FAMILIES {
        let timeouts = "timeouts = { idle = \"300ms\" }\n";
        let (upstream, gateway) = pair(unfinished(Openai, &["some"]).end(End::Stall), "openai_chat", timeouts).await;
        let answer = client.ask(&gateway, "up/m", true).await;
        let errors = client.stream_errors(&answer);
        assert_eq!(
            errors.iter().map(|e| e.code.as_str()).collect::<Vec<_>>(),
            ["upstream_timeout"],
            "{}",
            answer.text()
        );
        assert_eq!(client.terminals(&answer), 0);
        upstream.is_cancelled(1).await;
    }
}

#[tokio::test]
async fn a_stream_without_output_is_a_504_and_another_target_is_tried() {
    let slow = Upstream::saying(unfinished(Openai, &[]).end(End::Stall)).await;
    let well = Upstream::saying(frames(Openai, &["well"])).await;
    let config = format!(
        "{}timeouts = {{ first_event = \"300ms\" }}\n{}[models.m]\ntargets = [{{ provider = \"slow\", model = \"m\" }}, {{ provider = \"well\", model = \"m\" }}]\n",
        slow.provider("slow", "openai_chat"),
        well.provider("well", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    for client in FAMILIES {
        let answer = client.ask(&gateway, "slow/m", true).await;
        assert_eq!((answer.status, client.error(&answer).code.as_str()), (504, "upstream_timeout"));
        let answer = client.ask(&gateway, "m", true).await;
        assert_eq!(client.text(&answer), "well", "{}", answer.text());
    }
    slow.is_cancelled(4).await;
}

#[tokio::test]
async fn an_unstreamed_answer_that_hangs_is_a_504() {
    for client in FAMILIES {
        for say in [Say::json("{}").wait(LONG), Say::json("{\"id\":").end(End::Stall)] {
            let (upstream, gateway) = pair(say, "openai_chat", "timeouts = { whole = \"300ms\" }\n").await;
            let answer = client.ask(&gateway, "up/m", false).await;
            assert_eq!((answer.status, client.error(&answer).code.as_str()), (504, "upstream_timeout"));
            upstream.is_cancelled(1).await;
        }
    }
}

#[tokio::test]
async fn events_reach_the_client_as_they_come() {
    for client in FAMILIES {
        for format in FAMILIES {
            let (_upstream, gateway) = pair(unfinished(format, &["early"]).end(End::Stall), format.format(), "").await;
            let body = client.body("up/m", true, "x");
            let mut socket = begin(gateway.addr, "POST", &client.path("up/m", true), &[], body.as_bytes()).await;
            read_until(&mut socket, "early").await;
            let mut rest = [0; 1];
            let more = tokio::time::timeout(Duration::from_millis(1), socket.read(&mut rest)).await;
            assert!(!matches!(more, Ok(Ok(0))), "the stream is still open");
        }
    }
}

/// HTTP/2: one stream of a connection is left, the connection stays and serves on.
#[tokio::test]
async fn a_stream_left_on_a_shared_connection_cancels_its_upstream_alone() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let (upstream, gateway) = pair(unfinished(Openai, &["seen"]).end(End::Stall), "openai_chat", "").await;
    let socket = tokio::net::TcpStream::connect(gateway.addr).await.expect("connect");
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut send, connection) = shaken.expect("a handshake");
    tokio::spawn(connection);
    let mut ask = async |family: Family, model: &str, stream: bool| {
        let body = Full::new(bytes::Bytes::from(family.body(model, stream, "x")));
        let uri = format!("http://{}{}", gateway.addr, family.path(model, stream));
        let request = http::Request::post(uri).body(body).expect("a request");
        send.send_request(request).await.expect("an answer")
    };
    for (count, family) in FAMILIES.into_iter().enumerate() {
        let mut left = ask(family, "up/m", true).await;
        let stays = ask(family, "up/m", true).await;
        assert_eq!(left.status(), 200);
        left.frame().await.expect("a frame").expect("a whole one");
        drop(left);
        upstream.is_cancelled(2 * count + 1).await;
        assert_eq!(upstream.cancelled(), 2 * count + 1, "the other stream goes on");
        assert_eq!(ask(family, "mock", false).await.status(), 200);
        drop(stays);
        upstream.is_cancelled(2 * count + 2).await;
    }
}

/// A whole answer that nobody reads is cut too, and its memory is given back.
#[tokio::test]
async fn a_whole_answer_that_nobody_reads_is_cut() {
    let server = "[server]\nlisten = \"127.0.0.1:0\"\nwrite_stall = \"1s\"\n";
    let text = "many words ".repeat(1_300_000);
    let (upstream, gateway) = pair(Say::json(Openai.whole(&text)), "openai_chat", server).await;
    let body = Openai.body("up/m", false, "x");
    let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    upstream.hears(1).await;
    gateway.record(1).await;
    eventually("the connection is cut", async || socket.take_error().is_ok_and(|e| e.is_some()) || closed(&socket))
        .await;
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
    assert!(rest.len() < text.len(), "it was not delivered whole: {} bytes", rest.len());
}

/// Has the peer closed or reset? Reads nothing.
fn closed(socket: &tokio::net::TcpStream) -> bool {
    socket.try_write(b"x").is_err()
}
