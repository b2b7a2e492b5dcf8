//! The client against servers that fail in every way, and the requests that each kind of server gets.

use std::net::TcpListener;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use store::{Digest, Seed};

use crate::scripted::{Got, Say, Scripted, chat, models, ok};
use crate::*;

fn config(url: &str, more: Value) -> Config {
    let mut entry = json!({ "url": url, "timeout": { "retry": "2s", "connect": 2 } });
    entry.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    serde_json::from_value(entry).unwrap()
}

fn open(config: &Config, needs: Needs) -> Result<Endpoint, Trouble> {
    let model = Model { name: "frost".into(), revision: None };
    Endpoint::open("tower", config, &model, &needs, Path::new("/nowhere"), &mut |_| ControlFlow::Continue(()))
}

fn opened(url: &str, more: Value) -> Endpoint {
    open(&config(url, more), Needs::default()).unwrap()
}

fn messages(text: &str) -> Prompt {
    let messages = vec![Message { role: "user".into(), content: text.into() }];
    Prompt::Chat { messages, arguments: serde_json::Map::new() }
}

fn sampling() -> Sampling {
    Sampling { max_tokens: 8, temperature: 0.7, top_p: 0.9, top_k: 0, min_p: 0.0, stop: vec!["\n".into()] }
}

fn question(row: usize) -> Sample {
    let seed = Seed::from_u64(7).child(row);
    Sample {
        prompt: messages(&format!("How do I brew glowvenom number {row}?")),
        sampling: sampling(),
        seed,
        ids: false,
        logprobs: false,
    }
}

/// Asks so many rows, and returns the texts in order.
fn texts(endpoint: &Endpoint, rows: usize, journal: Option<&Journal>) -> Result<Vec<String>, Trouble> {
    let mut texts = Vec::new();
    let asking = Asking { journal, total: Some(rows), ..Asking::default() };
    endpoint.ask(
        (0..rows).map(question),
        &asking,
        &mut |row, answer| {
            assert_eq!(row, texts.len(), "in order");
            texts.push(answer.unwrap().text);
            Ok(())
        },
        &mut |_| ControlFlow::Continue(()),
    )?;
    Ok(texts)
}

/// Asks so many rows, of which some may have no answer.
fn texts_of(endpoint: &Endpoint, rows: usize, journal: Option<&Journal>) -> Result<(), Trouble> {
    let asking = Asking { journal, total: Some(rows), ..Asking::default() };
    let rows = (0..rows).map(question);
    endpoint.ask(rows, &asking, &mut |_, _| Ok(()), &mut |_| ControlFlow::Continue(()))
}

/// A server of this kind: `answer` has the rest.
fn server(owner: &'static str, answer: impl Fn(&Got, usize) -> Say + Send + Sync + 'static) -> Scripted {
    Scripted::new(move |got, before| match got.path.as_str() {
        "/v1/models" => ok(models(owner)),
        "/version" => ok(json!({ "version": "1.2.3" })),
        "/props" => ok(json!({ "build_info": "b1", "default_generation_settings": { "n_ctx": 512 } })),
        "/get_server_info" => ok(json!({ "version": "0.5", "context_length": 4096 })),
        _ => answer(got, before),
    })
}

/// The answer that repeats the last message.
fn echo(got: &Got) -> Say {
    ok(chat(got.body["messages"][0]["content"].as_str().unwrap()))
}

#[test]
fn a_storm_of_refusals_and_failures_loses_no_row() {
    let server = server("x", |got, before| match before % 7 {
        1 => Say::Json(429, json!({ "error": { "message": "slow down" } }), "retry-after: 0\r\n"),
        3 => Say::Json(500, json!({}), ""),
        4 => Say::Cut,
        5 => Say::Close,
        _ => echo(got),
    });
    let endpoint = opened(&server.url, json!({ "timeout": { "retry": "60s" } }));
    let texts = texts(&endpoint, 40, None).unwrap();
    assert_eq!(
        texts,
        (0..40).map(|row| format!("How do I brew glowvenom number {row}?")).collect::<Vec<_>>()
    );
    let served = endpoint.served();
    assert!(served.retries >= 40 && served.requests > served.retries, "{served:?}");
    assert_eq!((served.prompt_tokens, served.completion_tokens), (200, 80));
}

#[test]
fn retry_after_is_waited_for() {
    let server = server("x", |got, before| match before {
        0 => Say::Json(503, json!({}), "retry-after: 1\r\n"),
        _ => echo(got),
    });
    let begun = Instant::now();
    texts(&opened(&server.url, json!({})), 1, None).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

/// The error of asking one row.
fn failure(answer: impl Fn(&Got, usize) -> Say + Send + Sync + 'static, more: Value) -> (String, usize) {
    let server = server("x", answer);
    let endpoint = opened(&server.url, more);
    let error = texts(&endpoint, 1, None).unwrap_err();
    (error.to_string().replace(&server.url, "URL"), server.count())
}

#[test]
fn what_cannot_pass_fails_at_once_with_the_servers_words() {
    let refused = |status, said: Value| failure(move |_, _| Say::Json(status, said.clone(), ""), json!({}));
    let error = |message: &str| json!({ "error": { "message": message } });
    assert_eq!(
        refused(400, error("`stop` is odd; got 'How do I brew glowvenom number 0?'")),
        ("URL/v1/chat/completions refuses the request (status 400): `stop` is odd; got '[prompt]'".into(), 1)
    );
    let (long, asked) = refused(400, error("This model's maximum context length is 2048 tokens."));
    assert!(
        long.starts_with(
            "a prompt and its completion must fit into the context of 2048 tokens at URL, and do not"
        ),
        "{long}"
    );
    assert_eq!(asked, 1);
    let (key, asked) = refused(401, error("no"));
    assert!(
        key.starts_with("URL does not accept the key (status 401): no\n  help: put the key into a variable"),
        "{key}"
    );
    assert_eq!(asked, 1);
    let (model, _) = refused(404, error("The model `frost` does not exist"));
    assert!(model.starts_with("URL does not have the model `frost`; it has `frost`"), "{model}");
    assert_eq!(
        refused(200, json!({ "model": "frost" })).0,
        "URL gives an answer that cannot be used: it has no `choices`"
    );
    let (json, asked) = failure(|_, _| Say::Text("<html>hello"), json!({}));
    assert!(
        json.starts_with("URL gives an answer that cannot be used: it must be JSON, but expected value"),
        "{json}"
    );
    assert_eq!(asked, 1);
}

#[test]
fn what_does_not_pass_in_time_fails_with_its_cause() {
    let short = json!({ "timeout": { "retry": "300ms", "answer": "200ms", "connect": 1 } });
    let (cut, asked) = failure(|_, _| Say::Cut, short.clone());
    assert!(
        cut.contains("the answer ends in the middle") && cut.contains("help: finished rows are kept"),
        "{cut}"
    );
    assert!(asked > 1);
    let (drip, _) = failure(|_, _| Say::Drip(Duration::from_millis(20)), short.clone());
    assert!(drip.contains("no whole answer within 0.2 s"), "{drip}");
    let (busy, _) = failure(|_, _| Say::Json(429, json!({}), "retry-after: 3600\r\n"), short);
    assert_eq!(
        busy,
        "URL asks to wait 60 min, longer than `timeout.retry` of 300 ms: status 429: {}\n  help: finished rows are kept; run again then, \
         or raise `timeout.retry` of the endpoint"
    );
}

#[test]
fn answers_of_another_model_stop_the_rows() {
    let server = server("x", |_, before| {
        let mut answer = chat("hello");
        answer["model"] = if before < 3 { "frost-2026".into() } else { "flame".into() };
        ok(answer)
    });
    let endpoint = opened(&server.url, json!({ "requests": 1 }));
    let error = texts(&endpoint, 10, None).unwrap_err().to_string();
    assert!(error.contains("must answer with the model `frost-2026`, found an answer of `flame`"), "{error}");
}

fn error_of_opening(url: &str, more: Value, needs: Needs) -> String {
    open(&config(url, more), needs).map(|_| ()).unwrap_err().to_string().replace(url, "URL")
}

#[test]
fn what_is_wrong_with_a_server_is_found_out_before_the_first_request() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = error_of_opening(&format!("http://{closed}"), json!({}), Needs::default());
    assert!(error.starts_with("cannot reach URL: ") && error.contains("help: check `url`"), "{error}");
    let page = Scripted::new(|_, _| Say::Text("<html>hello"));
    let error = error_of_opening(&page.url, json!({}), Needs::default());
    assert!(error.starts_with("URL must be an OpenAI-compatible server, found something else"), "{error}");
    let other = Scripted::new(|_, _| Say::Json(404, json!({}), ""));
    let error = error_of_opening(&other.url, json!({}), Needs::default());
    assert!(
        error
            .contains("found no list of models (status 404 of /v1/models)\n  help: `url` is the part before"),
        "{error}"
    );
    let lists = server("vllm", |_, _| Say::Json(404, json!({}), ""));
    let error = error_of_opening(&lists.url, json!({ "models": { "frost": "flame" } }), Needs::default());
    assert!(error.starts_with("URL does not have the model `flame`; it has `frost`\n  help: "), "{error}");
    let error = error_of_opening(&lists.url, json!({ "key": "TRIPLAY_TEST_UNSET" }), Needs::default());
    assert!(
        error.starts_with("the variable TRIPLAY_TEST_UNSET must hold the key of the endpoint `tower`"),
        "{error}"
    );
    let error = error_of_opening(&lists.url, json!({}), Needs { logprobs: true, ..Needs::default() });
    assert!(error.contains("(vLLM 1.2.3) does not give log-probabilities of its completions"), "{error}");
    let llama = server("llamacpp", |_, _| ok(json!({})));
    for (needs, said) in [
        (
            Needs { score: true, ..Needs::default() },
            "does not give log-probabilities of given tokens\n  help: vLLM, SGLang and triplay",
        ),
        (
            Needs { adapters: true, ..Needs::default() },
            "does not load adapters while it runs\n  help: vLLM does with",
        ),
        (
            Needs { embed: true, ..Needs::default() },
            "does not make embeddings\n  help: start it with an embedding model",
        ),
    ] {
        let error = error_of_opening(&llama.url, json!({}), needs);
        assert!(error.starts_with("URL (llama.cpp's server b1) ") && error.contains(said), "{error}");
    }
    let provider = server("openai-inc", |_, _| ok(chat("hello")));
    let error = error_of_opening(&provider.url, json!({}), Needs { choice: true, ..Needs::default() });
    assert!(
        error.contains("`choice` needs log-probabilities of given tokens, or a grammar\n  help: vLLM"),
        "{error}"
    );
    // Some refuse to be asked for them.
    assert!(!opened(&provider.url, json!({})).can().can.logprobs);
    let error = error_of_opening(&provider.url, json!({}), Needs { logprobs: true, ..Needs::default() });
    assert!(error.contains("does not give log-probabilities of its completions"), "{error}");
}

#[test]
fn a_key_is_sent_and_never_shown() {
    // Any variable will do: tests cannot set one without `unsafe`.
    let variable =
        std::env::vars().find(|(_, value)| value.len() > 8 && value.bytes().all(|b| b.is_ascii_graphic()));
    let (variable, key) = variable.unwrap();
    let wanted = format!("authorization: Bearer {key}").to_lowercase();
    let told = key.clone();
    let server = Scripted::new(move |got, _| match got.head.to_lowercase().contains(&wanted) {
        true if got.path == "/v1/models" => ok(models("x")),
        true => Say::Json(400, json!({ "error": { "message": format!("your key {told} is odd") } }), ""),
        false => Say::Json(401, json!({}), ""),
    });
    let endpoint = opened(&server.url, json!({ "key": variable }));
    let error = texts(&endpoint, 1, None).unwrap_err().to_string();
    assert!(error.ends_with("your key [key] is odd"), "{error}");
    let error = error_of_opening(&server.url, json!({}), Needs::default());
    assert!(error.starts_with("URL does not accept the key (status 401)"), "{error}");
}

#[test]
fn a_certificate_that_is_not_valid_is_named_and_an_own_authority_is_trusted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let certificates =
        CertificateDer::pem_file_iter(folder.join("server.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = Arc::new(builder.with_no_client_auth().with_single_cert(certificates, key).unwrap());
    let answer = |got: &Got, _| if got.path == "/v1/models" { ok(models("x")) } else { echo(got) };
    let server = Scripted::with(answer, "https", move |stream| {
        Box::new(rustls::StreamOwned::new(rustls::ServerConnection::new(tls.clone()).unwrap(), stream))
    });
    let error = error_of_opening(&server.url, json!({}), Needs::default());
    assert!(
        error.starts_with("the certificate of URL is not valid: ") && error.contains("PEM file in `ca`"),
        "{error}"
    );
    let ca = folder.join("ca.pem");
    assert_eq!(texts(&opened(&server.url, json!({ "ca": ca })), 3, None).unwrap().len(), 3);
    let error = error_of_opening(&server.url, json!({ "ca": folder.join("server.key") }), Needs::default());
    assert!(error.starts_with("`ca` must be a PEM file of certificates, found none in "), "{error}");
}

#[test]
fn finished_rows_are_not_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let fails =
        server("x", |got, before| if before < 25 { echo(got) } else { Say::Json(400, json!({}), "") });
    let journal = Journal::open(folder.path()).unwrap();
    texts(&opened(&fails.url, json!({ "requests": 4 })), 50, Some(&journal)).unwrap_err();
    assert_eq!(journal.len(), 25);
    drop(journal);
    let works = server("x", |got, _| echo(got));
    let journal = Journal::open(folder.path()).unwrap();
    let endpoint = opened(&works.url, json!({}));
    assert_eq!(texts(&endpoint, 50, Some(&journal)).unwrap().len(), 50);
    assert_eq!((works.count(), endpoint.served().kept), (25, 25), "another URL, the same rows");
    assert_eq!(texts(&endpoint, 50, Some(&journal)).unwrap().len(), 50);
    assert_eq!(works.count(), 25);
    let other = Model { name: "frost".into(), revision: Some("b".into()) };
    let endpoint = Endpoint::open(
        "tower",
        &config(&works.url, json!({})),
        &other,
        &Needs::default(),
        Path::new("/"),
        &mut |_| ControlFlow::Continue(()),
    );
    texts(&endpoint.unwrap(), 50, Some(&journal)).unwrap();
    assert_eq!(works.count(), 75, "another revision is asked anew");
}

#[test]
fn a_budget_stops_with_what_is_done_kept() {
    let folder = tempfile::tempdir().unwrap();
    let server = server("x", |got, _| echo(got));
    let journal = Journal::open(folder.path()).unwrap();
    let more = |money: f64| json!({ "requests": 1, "price": { "input": 1e6, "output": 1e6 }, "budget": { "money": money } });
    // 7 a row.
    let error = texts(&opened(&server.url, more(30.0)), 20, Some(&journal)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`budget.money` of 30 is spent (35.0000) after 5 rows; 15 are left\n  help: finished rows are kept; raise the budget in the \
         site file and run again to go on"
    );
    assert_eq!(journal.len(), 5);
    texts(&opened(&server.url, more(30.0)), 20, Some(&journal)).unwrap_err();
    assert_eq!(server.count(), 5, "what was spent by earlier tries counts");
    let asking = Asking { journal: Some(&journal), ..Asking::default() };
    let others = (100..101).map(question);
    let more_of_it = opened(&server.url, more(30.0));
    more_of_it.ask(others, &asking, &mut |_, _| Ok(()), &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(server.count(), 5, "and what was spent on other questions of the node");
    assert_eq!(texts(&opened(&server.url, more(140.0)), 20, Some(&journal)).unwrap().len(), 20);
    assert_eq!(server.count(), 20);
}

#[test]
fn tokens_of_rows_that_fail_count() {
    let folder = tempfile::tempdir().unwrap();
    let server = server("x", |got, before| match before {
        0 => ok(json!({ "model": "frost", "usage": { "prompt_tokens": 5, "completion_tokens": 2 } })),
        _ => echo(got),
    });
    let journal = Journal::open(folder.path()).unwrap();
    let more = |tokens: u64| json!({ "requests": 1, "budget": { "tokens": tokens } });
    let error = texts(&opened(&server.url, more(100)), 1, Some(&journal)).unwrap_err().to_string();
    assert!(error.ends_with("it has no `choices`"), "{error}");
    assert!(journal.is_empty());
    drop(journal);
    let journal = Journal::open(folder.path()).unwrap();
    let error = texts(&opened(&server.url, more(7)), 1, Some(&journal)).unwrap_err().to_string();
    assert!(error.starts_with("`budget.tokens` of 7 is spent (7) after 0 rows"), "{error}");
    let endpoint = opened(&server.url, more(100));
    texts(&endpoint, 1, Some(&journal)).unwrap();
    assert_eq!(endpoint.served().prompt_tokens, 10, "with those of the failed try");
}

#[test]
fn after_the_last_error_nothing_more_is_asked() {
    let server = server("x", |_, _| {
        std::thread::sleep(Duration::from_millis(50));
        Say::Json(400, json!({}), "")
    });
    texts(&opened(&server.url, json!({ "requests": 64 })), 200, None).unwrap_err();
    assert!(server.count() <= 4, "{} were sent, four at once", server.count());
}

#[test]
fn a_filters_answer_is_never_taken_for_the_models() {
    let folder = tempfile::tempdir().unwrap();
    let server = server("x", |got, _| {
        let text = got.body["messages"][0]["content"].as_str().unwrap();
        let mut answer = chat("cold");
        let choice = &mut answer["choices"][0];
        match text.rsplit(' ').next().unwrap() {
            "1?" => choice["finish_reason"] = "content_filter".into(),
            "2?" => {
                let error = json!({ "error": { "code": "content_filter", "message": "no" } });
                return Say::Json(400, error, "");
            }
            "3?" => choice["message"] = json!({ "content": null, "refusal": "I do not brew that." }),
            _ => {}
        }
        ok(answer)
    });
    let journal = Journal::open(folder.path()).unwrap();
    let error = texts_of(&opened(&server.url, json!({})), 6, Some(&journal)).unwrap_err().to_string();
    assert!(error.contains("its filter stopped 2 of 6 answers (`content_filter`)\n  help: "), "{error}");
    assert_eq!(journal.len(), 4, "the others are kept");
    let mut answers = Vec::new();
    let endpoint = opened(&server.url, json!({}));
    let asking = Asking { journal: Some(&journal), ..Asking::default() };
    let mut deliver = |_, answer: Option<Sampled>| {
        answers.push(answer.unwrap().text);
        Ok(())
    };
    let row = (3..4).map(question);
    endpoint.ask(row, &asking, &mut deliver, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(answers, ["I do not brew that."], "a refusal is the model's own");
}

#[test]
fn a_model_that_changes_between_two_tries_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &'static str| {
        server("x", move |_, before| {
            let mut answer = chat("cold");
            answer["model"] = name.into();
            if before < 5 { ok(answer) } else { Say::Json(400, json!({}), "") }
        })
    };
    let journal = Journal::open(folder.path()).unwrap();
    texts(&opened(&named("frost-1").url, json!({ "requests": 1 })), 8, Some(&journal)).unwrap_err();
    drop(journal);
    let journal = Journal::open(folder.path()).unwrap();
    let other = named("frost-2");
    let error = texts(&opened(&other.url, json!({})), 8, Some(&journal)).unwrap_err().to_string();
    assert!(error.contains("must answer with the model `frost-1`, found an answer of `frost-2`"), "{error}");
    assert_eq!(journal.len(), 5);
    texts(&opened(&named("frost-1").url, json!({})), 8, Some(&journal)).unwrap();
}

#[test]
fn rows_of_a_model_whose_files_are_known_are_kept_whatever_the_server_calls_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = server("x", |got, _| echo(got));
    let journal = Journal::open(folder.path()).unwrap();
    let content = Digest::of_bytes(b"files");
    texts(&opened(&server.url, json!({})).of_content(content), 5, Some(&journal)).unwrap();
    let asked = server.count();
    let config = config(&server.url, json!({ "models": { "flame": "frost" } }));
    let other = Model { name: "flame".into(), revision: None };
    let mut go_on = |_: &str| ControlFlow::Continue(());
    let opened =
        Endpoint::open("tower", &config, &other, &Needs::default(), Path::new("/"), &mut go_on).unwrap();
    texts(&opened.clone().of_content(content), 5, Some(&journal)).unwrap();
    assert_eq!(server.count(), asked, "another name, the same files");
    texts(&opened.of_content(Digest::of_bytes(b"others")), 5, Some(&journal)).unwrap();
    assert_eq!(server.count(), asked + 5, "other files");
}

#[test]
fn a_server_that_asks_to_wait_for_a_day_is_not_waited_for_when_it_is_found() {
    let begun = Instant::now();
    let busy = Scripted::new(|_, _| Say::Json(429, json!({}), "retry-after: 86400\r\n"));
    let error = error_of_opening(&busy.url, json!({}), Needs::default());
    assert!(error.starts_with("URL asks to wait 1440 min, longer than `timeout.retry` of 2 s"), "{error}");
    let busy = server("x", |_, _| Say::Json(429, json!({}), "retry-after: 86400\r\n"));
    let error = error_of_opening(&busy.url, json!({}), Needs { embed: true, ..Needs::default() });
    assert!(error.starts_with("URL asks to wait 1440 min"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    let hurried = server("x", |_, _| Say::Json(429, json!({}), "retry-after: 0\r\n"));
    let error = error_of_opening(&hurried.url, json!({}), Needs { embed: true, ..Needs::default() });
    assert!(error.contains("status 429 of /embeddings"), "{error}");
    assert!(hurried.count() <= 5, "{} in two seconds", hurried.count());
}

#[test]
fn never_more_at_once_than_the_limit_and_cancelling_stops() {
    let server = server("x", |got, _| {
        std::thread::sleep(Duration::from_millis(5));
        echo(got)
    });
    let endpoint = opened(&server.url, json!({ "requests": 6 }));
    texts(&endpoint, 200, None).unwrap();
    assert!((4..=6).contains(&server.most_at_once.load(Ordering::SeqCst)));
    let slow = Scripted::new(|got, _| {
        if got.path == "/v1/models" { ok(models("x")) } else { Say::Drip(Duration::from_secs(1)) }
    });
    let endpoint = opened(&slow.url, json!({}));
    let mut deliver = |_, _| Ok(());
    let stopped =
        endpoint.ask((0..9).map(question), &Asking::default(), &mut deliver, &mut |_| ControlFlow::Break(()));
    assert!(stopped.unwrap_err().is_cancelled());
}

#[test]
fn a_prompt_that_is_too_long_may_be_skipped() {
    let server = server("x", |got, _| {
        match got.body["messages"][0]["content"].as_str().unwrap().contains("number 3") {
            true => {
                Say::Json(400, json!({ "error": { "code": "context_length_exceeded", "message": "no" } }), "")
            }
            false => echo(got),
        }
    });
    let asking = Asking { skip_too_long: true, ..Asking::default() };
    let mut skipped = Vec::new();
    let mut deliver = |row, answer: Option<Sampled>| {
        if answer.is_none() {
            skipped.push(row);
        }
        Ok(())
    };
    let endpoint = opened(&server.url, json!({}));
    endpoint.ask((0..6).map(question), &asking, &mut deliver, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(skipped, [3]);
}

/// Asks one question of a server of a kind that gives these answers in turn, and returns the bodies that it got after opening.
fn asked<Q: Question>(
    owner: &'static str,
    question: Q,
    answers: Vec<(&'static str, Value)>,
) -> (Vec<Value>, Q::Answer) {
    let server = server(owner, move |got, _| {
        let found = answers.iter().find(|(path, _)| *path == got.path);
        ok(found.unwrap_or_else(|| panic!("no answer for {}", got.path)).1.clone())
    });
    let endpoint = opened(&server.url, json!({}));
    let mut answer = None;
    let mut deliver = |_, given| {
        answer = given;
        Ok(())
    };
    let asking = Asking::default();
    endpoint.ask([question].into_iter(), &asking, &mut deliver, &mut |_| ControlFlow::Continue(())).unwrap();
    let bodies = server.got.lock().unwrap().iter().map(|got| got.body.clone()).collect();
    (bodies, answer.unwrap())
}

const SEED: u64 = 7;

fn number() -> Value {
    json!(question::number(&Seed::from_u64(SEED)))
}

fn sample(prompt: Prompt, ids: bool) -> Sample {
    Sample { prompt, sampling: sampling(), seed: Seed::from_u64(SEED), ids, logprobs: ids }
}

#[test]
fn a_policy_sample_of_triplay_serve_is_ids_in_and_ids_out() {
    let said = json!({
        "model": "frost", "usage": { "prompt_tokens": 2, "completion_tokens": 2 },
        "choices": [{ "index": 0, "text": "cold", "finish_reason": "length", "token_ids": [5, 6], "prompt_token_ids": [1, 2],
                      "logprobs": { "token_logprobs": [-0.25, -0.1] } }],
    });
    let (bodies, answer) =
        asked("triplay", sample(Prompt::Ids(vec![1, 2]), true), vec![("/v1/completions", said)]);
    assert_eq!(
        bodies,
        [json!({
            "max_tokens": 8, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "stop": ["\n"], "model": "frost",
            "prompt": [1, 2], "seed": Seed::from_u64(SEED).to_hex(), "logprobs": 0, "return_token_ids": true,
        })]
    );
    assert_eq!((answer.ids, answer.prompt_ids, answer.finished), (vec![5, 6], vec![1, 2], false));
    assert_eq!(answer.logprobs, [-0.25, -0.1]);
}

#[test]
fn vllm_gets_every_field_that_a_models_own_defaults_could_change() {
    let said = json!({
        "model": "frost", "prompt_token_ids": [1, 2],
        "choices": [{ "message": { "content": "cold", "reasoning_content": "hm" }, "finish_reason": "stop", "token_ids": [5],
                      "logprobs": { "content": [{ "token": "cold", "logprob": -0.5 }] } }],
    });
    let (bodies, answer) =
        asked("vllm", sample(messages("ice?"), true), vec![("/v1/chat/completions", said)]);
    assert_eq!(
        bodies,
        [json!({
            "max_tokens": 8, "temperature": 0.7, "top_p": 0.9, "top_k": -1, "min_p": 0.0, "frequency_penalty": 0.0,
            "presence_penalty": 0.0, "repetition_penalty": 1.0, "stop": ["\n"], "model": "frost",
            "messages": [{ "role": "user", "content": "ice?" }], "seed": number(), "logprobs": true, "return_token_ids": true,
        })]
    );
    assert_eq!(
        (answer.text.as_str(), answer.reasoning.as_deref(), answer.finished),
        ("cold", Some("hm"), true)
    );
    assert_eq!((answer.prompt_ids, answer.ids, answer.logprobs), (vec![1, 2], vec![5], vec![-0.5]));
}

#[test]
fn sglang_and_llama_cpp_give_ids_by_their_own_routes() {
    let said = json!({
        "text": "cold", "output_ids": [5], "meta_info": { "finish_reason": { "type": "length" }, "prompt_tokens": 2,
        "completion_tokens": 1, "output_token_logprobs": [[-0.5, 5, null]] },
    });
    let tokens = json!({ "tokens": [1, 2] });
    let answers = vec![("/tokenize", tokens.clone()), ("/generate", said)];
    let (bodies, answer) = asked("sglang", sample(messages("ice?"), true), answers);
    assert_eq!(
        bodies[1],
        json!({
            "input_ids": [1, 2], "return_logprob": true,
            "sampling_params": {
                "max_new_tokens": 8, "temperature": 0.7, "top_p": 0.9, "top_k": -1, "min_p": 0.0, "frequency_penalty": 0.0,
                "presence_penalty": 0.0, "repetition_penalty": 1.0, "stop": ["\n"], "sampling_seed": number(),
            },
        })
    );
    assert_eq!((answer.ids, answer.prompt_ids, answer.finished), (vec![5], vec![1, 2], false));
    let said = json!({
        "content": "cold", "tokens": [5], "stop_type": "eos", "tokens_evaluated": 2, "tokens_predicted": 1,
        "completion_probabilities": [{ "id": 5, "logprob": -0.5 }],
    });
    let answers = vec![
        ("/apply-template", json!({ "prompt": "<ice?>" })),
        ("/tokenize", tokens),
        ("/completion", said),
    ];
    let (bodies, answer) = asked("llamacpp", sample(messages("ice?"), true), answers);
    assert_eq!(bodies[1], json!({ "content": "<ice?>", "add_special": true, "parse_special": true }));
    assert_eq!(
        bodies[2],
        json!({
            "n_predict": 8, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "frequency_penalty": 0.0,
            "presence_penalty": 0.0, "repeat_penalty": 1.0, "typical_p": 1.0, "mirostat": 0, "dynatemp_range": 0.0,
            "xtc_probability": 0.0, "dry_multiplier": 0.0, "cache_prompt": false, "stop": ["\n"], "prompt": [1, 2],
            "seed": number(), "return_tokens": true, "n_probs": 1,
        })
    );
    assert_eq!((answer.ids, answer.logprobs, answer.finished), (vec![5], vec![-0.5], true));
    // The tokens of a text that ended the completion have no log-probabilities.
    let said = json!({
        "content": "cold", "tokens": [5, 6], "stop_type": "word", "completion_probabilities": [{ "id": 5, "logprob": -0.5 }],
    });
    let (_, answer) = asked("llamacpp", sample(Prompt::Ids(vec![1, 2]), true), vec![("/completion", said)]);
    assert_eq!((answer.ids, answer.logprobs, answer.finished), (vec![5, 6], vec![], true));
}

#[test]
fn a_provider_gets_the_fields_that_it_knows_and_others_are_refused_first() {
    let (bodies, _) =
        asked("openai", sample(messages("ice?"), false), vec![("/v1/chat/completions", chat("cold"))]);
    assert_eq!(
        bodies,
        [json!({
            "max_tokens": 8, "temperature": 0.7, "top_p": 0.9, "frequency_penalty": 0.0, "presence_penalty": 0.0, "stop": ["\n"],
            "model": "frost", "messages": [{ "role": "user", "content": "ice?" }], "seed": number(),
        })]
    );
    let server = server("openai", |got, _| echo(got));
    let ask = |question: Sample, more: Value| {
        let endpoint = opened(&server.url, more);
        let mut deliver = |_, _| Ok(());
        endpoint
            .ask([question].into_iter(), &Asking::default(), &mut deliver, &mut |_| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string()
    };
    let mut odd = sample(messages("ice?"), false);
    odd.sampling.top_k = 40;
    assert!(ask(odd, json!({})).starts_with("`top_k` must be 0 with the endpoint `tower`"));
    let mut odd = sample(messages("ice?"), false);
    if let Prompt::Chat { arguments, .. } = &mut odd.prompt {
        arguments.insert("enable_thinking".into(), json!(false));
    }
    assert!(ask(odd, json!({})).contains("does not take arguments of the chat template"));
    assert!(ask(sample(messages("ice?"), true), json!({})).contains("does not give token ids back"));
    let text = sample(Prompt::Text("ice?".into()), false);
    assert!(
        ask(text, json!({ "kind": "openai", "api": "chat" }))
            .contains("found a prompt of plain text\n  help: add `chat: true`")
    );
    let chat = sample(messages("ice?"), false);
    assert!(
        ask(chat, json!({ "kind": "openai", "api": "completions" }))
            .contains("found messages\n  help: leave `chat` out")
    );
    assert_eq!(server.count(), 0, "nothing was asked");
}

#[test]
fn vllm_and_triplay_score_texts_after_the_prompts_tokens() {
    let of = |ids: [u64; 3], last: f64| json!([null, { ids[1].to_string(): { "logprob": -9.0 } }, { ids[2].to_string(): { "logprob": last } }]);
    // The prompt ends with 2; "yes" is 7 and "no" is 8 after it.
    let serve = |owner| {
        server(owner, move |got, _| match got.path.as_str() {
            "/tokenize" if got.body["messages"].is_array() => ok(json!({ "tokens": [1, 2] })),
            "/tokenize" => {
                ok(json!({ "tokens": [1, 2, if got.body["prompt"] == "<1 2>yes" { 7 } else { 8 }] }))
            }
            "/detokenize" => ok(json!({ "prompt": "<1 2>" })),
            _ => {
                let prompts = got.body["prompt"].as_array().unwrap().iter().enumerate();
                let choice = |(index, ids): (usize, &Value)| {
                    let last = ids[2].as_u64().unwrap();
                    json!({ "index": index, "prompt_logprobs": of([1, 2, last], if last == 7 { -0.5 } else { -2.0 }) })
                };
                let choices: Vec<Value> = prompts.map(choice).rev().collect();
                ok(json!({ "model": "frost", "choices": choices }))
            }
        })
    };
    let choose = |temperature| Choose {
        prompt: messages("ice?"),
        texts: vec!["yes".into(), "no".into()],
        temperature,
        seed: Seed::from_u64(SEED),
    };
    let together = json!([[1, 2, 7], [1, 2, 8]]);
    for (owner, temperature, sent, prompts) in
        [("triplay", 0.7, 0.7, together), ("vllm", 0.0, 1.0, json!([[1, 2, 7]]))]
    {
        let server = serve(owner);
        let endpoint = opened(&server.url, json!({ "requests": 1 }));
        let mut answers = Vec::new();
        let mut deliver = |_, answer: Option<Choice>| {
            answers.extend(answer);
            Ok(())
        };
        let rows = [choose(temperature), choose(temperature)].into_iter();
        endpoint.ask(rows, &Asking::default(), &mut deliver, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(answers[0].logprobs.as_deref().unwrap(), [[-0.5], [-2.0]]);
        assert_eq!((&answers[0].ids, &answers[0].prompt_ids), (&vec![vec![7], vec![8]], &vec![1, 2]));
        assert_eq!(answers[0], answers[1]);
        let scored = server.bodies("/v1/completions");
        assert_eq!((&scored[0]["prompt"], &scored[0]["temperature"]), (&prompts, &json!(sent)));
        assert_eq!(
            server.bodies("/detokenize").len(),
            2,
            "texts after the same end of a prompt are tokenised once"
        );
    }
    let server = serve("vllm");
    let mut deliver = |_, _| Ok(());
    let endpoint = opened(&server.url, json!({}));
    let error = endpoint
        .ask([choose(0.7)].into_iter(), &Asking::default(), &mut deliver, &mut |_| ControlFlow::Continue(()));
    assert!(
        error
            .unwrap_err()
            .to_string()
            .starts_with("`temperature` must be 0 or 1 where vLLM scores texts, found 0.7")
    );
}

#[test]
fn llama_cpp_chooses_by_grammar_and_says_so() {
    let choose = Choose {
        prompt: messages("ice?"),
        texts: vec!["yes".into(), "a \"no\"".into()],
        temperature: 0.0,
        seed: Seed::from_u64(SEED),
    };
    let (bodies, answer) = asked("llamacpp", choose, vec![("/v1/chat/completions", chat("a \"no\""))]);
    assert_eq!(bodies[0]["grammar"], r#"root ::= "yes" | "a \"no\"""#);
    assert_eq!((answer.chosen, answer.logprobs), (Some(1), None));
}

#[test]
fn tokens_are_scored_by_sglangs_own_route_and_texts_embedded() {
    let said = json!([{ "meta_info": { "input_token_logprobs": [[null, 2, null], [-0.5, 7, null]] } }]);
    let score = Score { prompt: vec![1, 2], completion: vec![7], temperature: 1.0 };
    let (bodies, answer) = asked("sglang", score, vec![("/generate", said)]);
    assert_eq!((&bodies[0]["input_ids"], &bodies[0]["logprob_start_len"]), (&json!([[1, 2, 7]]), &json!(1)));
    assert_eq!(answer, [-0.5]);
    let other = server("sglang", |_, _| {
        ok(json!([{ "meta_info": { "input_token_logprobs": [[null, 2, null], [-0.5, 8, null]] } }]))
    });
    let score = Score { prompt: vec![1, 2], completion: vec![7], temperature: 1.0 };
    let error = opened(&other.url, json!({})).ask(
        [score].into_iter(),
        &Asking::default(),
        &mut |_, _| Ok(()),
        &mut |_| ControlFlow::Continue(()),
    );
    assert!(error.unwrap_err().to_string().ends_with("of other tokens than those that were asked"));
    let said = json!({ "data": [{ "index": 0, "embedding": [0.5, -1.0] }], "model": "frost" });
    let (bodies, answer) = asked("x", Embed { text: "ice".into() }, vec![("/v1/embeddings", said)]);
    assert_eq!(bodies, [json!({ "model": "frost", "input": ["ice"], "encoding_format": "float" })]);
    assert_eq!(answer, [0.5, -1.0]);
}

#[test]
fn the_temperature_of_vllms_log_probabilities_is_found_out() {
    for (processed, mode) in [(false, LogprobsMode::Raw), (true, LogprobsMode::Processed)] {
        let server = server("vllm", move |got, _| {
            let logprob = if processed && got.body["temperature"] == 0.5 { -0.1 } else { -0.4 };
            ok(
                json!({ "model": "frost", "choices": [{ "logprobs": { "top_logprobs": [{ "a": logprob }] } }] }),
            )
        });
        let endpoint =
            open(&config(&server.url, json!({})), Needs { logprobs: true, ..Needs::default() }).unwrap();
        assert_eq!(endpoint.can().logprobs_mode, Some(mode));
        assert_eq!(endpoint.context(), Some(2048));
    }
}

/// A server of adapters, and the names of those that it has loaded.
fn adapters(owner: &'static str) -> (Scripted, Arc<std::sync::Mutex<Vec<String>>>) {
    let loaded = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let at_server = loaded.clone();
    let server = Scripted::new(move |got, _| {
        let mut loaded = at_server.lock().unwrap();
        match got.path.trim_start_matches("/v1") {
            "/models" => {
                let mut list = models(owner);
                let data = list["data"].as_array_mut().unwrap();
                data.extend(
                    loaded.iter().map(|name| json!({ "id": name, "owned_by": owner, "parent": "frost" })),
                );
                ok(list)
            }
            "/load_lora_adapter" => {
                loaded.push(got.body["lora_name"].as_str().unwrap().into());
                Say::Text("Success")
            }
            "/unload_lora_adapter" => {
                loaded.retain(|name| *name != got.body["lora_name"]);
                Say::Text("Success")
            }
            "/version" | "/get_server_info" => ok(json!({ "version": "1" })),
            "/generate" if got.body["input_ids"][0].is_array() => ok(json!([
                { "meta_info": { "input_token_logprobs": [[null, 2, null], [-0.5, 7, null]] } }
            ])),
            "/generate" => ok(json!({
                "text": "cold", "output_ids": [5],
                "meta_info": { "finish_reason": { "type": "stop" }, "output_token_logprobs": [[-0.5, 5, null]] },
            })),
            _ => {
                let model = got.body["model"].as_str().unwrap();
                if model != "frost" && !loaded.iter().any(|name| name == model) {
                    let message = format!("The model `{model}` does not exist.");
                    return Say::Json(404, json!({ "error": { "message": message } }), "");
                }
                let mut answer = chat("cold");
                answer["model"] = model.into();
                ok(answer)
            }
        }
    });
    (server, loaded)
}

fn with_adapter(base: &Endpoint, folder: &Path, digest: Digest) -> Result<Endpoint, Trouble> {
    base.with_adapter(folder, digest, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn an_adapter_is_loaded_once_and_unloaded_after_its_last_user() {
    let (server, loaded) = adapters("vllm");
    let folder = tempfile::tempdir().unwrap();
    let digest = Digest::of_bytes(b"adapter");
    let base = opened(&server.url, json!({ "share": { "from": folder.path(), "to": "/at/server" } }));
    let (one, two) = (
        with_adapter(&base, &folder.path().join("a"), digest).unwrap(),
        with_adapter(&base, &folder.path().join("b"), digest).unwrap(),
    );
    assert_eq!(texts(&one, 1, None).unwrap(), ["cold"]);
    assert_eq!(
        server.bodies("/v1/load_lora_adapter"),
        [json!({ "lora_name": digest.to_string(), "lora_path": "/at/server/a" })]
    );
    assert_eq!(server.bodies("/v1/chat/completions")[0]["model"], digest.to_string());
    drop(one);
    assert_eq!(loaded.lock().unwrap().len(), 1);
    drop(two);
    assert!(loaded.lock().unwrap().is_empty(), "unloaded");
    loaded.lock().unwrap().push(digest.to_string());
    drop(with_adapter(&base, folder.path(), digest).unwrap());
    assert_eq!(loaded.lock().unwrap().len(), 1, "what another process loaded stays");
    let outside = with_adapter(&base, Path::new("/elsewhere"), Digest::of_bytes(b"other"));
    let outside = outside.map(|_| ()).unwrap_err().to_string();
    assert!(
        outside.contains("it must be below ") && outside.contains("help: name a folder in `share.from`"),
        "{outside}"
    );
}

#[test]
fn an_adapter_that_another_process_unloads_is_loaded_again() {
    let (server, loaded) = adapters("vllm");
    let digest = Digest::of_bytes(b"shared adapter");
    loaded.lock().unwrap().push(digest.to_string());
    let endpoint = with_adapter(&opened(&server.url, json!({})), Path::new("/a"), digest).unwrap();
    assert_eq!(texts(&endpoint, 1, None).unwrap(), ["cold"]);
    assert!(server.bodies("/v1/load_lora_adapter").is_empty(), "it was there");
    loaded.lock().unwrap().clear();
    assert_eq!(texts(&endpoint, 20, None).unwrap().len(), 20);
    assert_eq!(server.bodies("/v1/load_lora_adapter").len(), 1, "once for all rows");
    drop(endpoint);
    assert!(loaded.lock().unwrap().is_empty(), "it is ours to unload now");
}

#[test]
fn sglang_is_asked_for_an_adapter_that_was_loaded_before_the_server_was_found() {
    let (server, loaded) = adapters("sglang");
    let digest = Digest::of_bytes(b"left over");
    loaded.lock().unwrap().push(digest.to_string());
    let base = opened(&server.url, json!({}));
    let endpoint = with_adapter(&base, Path::new("/a"), digest).unwrap();
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    let prompt = Prompt::Ids(vec![1, 2]);
    let row = [sample(prompt.clone(), true)].into_iter();
    endpoint.ask(row, &Asking::default(), &mut |_, _| Ok(()), &mut go_on).unwrap();
    let row = [Score { prompt: vec![1, 2], completion: vec![7], temperature: 1.0 }].into_iter();
    endpoint.ask(row, &Asking::default(), &mut |_, _| Ok(()), &mut go_on).unwrap();
    let row = [sample(prompt, true)].into_iter();
    base.ask(row, &Asking::default(), &mut |_, _| Ok(()), &mut go_on).unwrap();
    let paths: Vec<Value> =
        server.bodies("/generate").into_iter().map(|body| body["lora_path"].clone()).collect();
    assert_eq!(paths, [json!(digest.to_string()), json!(digest.to_string()), Value::Null]);
}

#[test]
fn a_server_that_cannot_load_an_adapter_says_why_and_a_busy_one_is_asked_again() {
    let error = |status: u16, said: Value| {
        let server = server("vllm", move |_, _| Say::Json(status, said.clone(), ""));
        let digest = Digest::of_bytes(server.url.as_bytes());
        let base = opened(&server.url, json!({}));
        let error = with_adapter(&base, Path::new("/nowhere"), digest).map(|_| ()).unwrap_err();
        error.to_string().replace(&server.url, "URL")
    };
    let said = json!({ "error": { "message": "Loading lora failed: No adapter found for /nowhere" } });
    let missing = error(404, said);
    assert!(
        missing.starts_with(
            "URL cannot load the adapter /nowhere: status 404: Loading lora failed: No adapter found"
        ) && missing.contains("help: the server must be able to read the folder: write share:"),
        "{missing}"
    );
    let lacks = error(404, json!({ "detail": "Not Found" }));
    assert!(lacks.starts_with("URL (vLLM 1.2.3) does not load adapters while it runs"), "{lacks}");
    let busy = error(503, json!({ "error": "loading" }));
    assert!(busy.starts_with("URL has failed for ") && busy.contains("status 503: loading"), "{busy}");
    let server = server("vllm", |got, before| match got.path.as_str() {
        "/v1/load_lora_adapter" if before == 0 => Say::Json(429, json!({}), "retry-after: 0\r\n"),
        _ => Say::Text("Success"),
    });
    let digest = Digest::of_bytes(server.url.as_bytes());
    with_adapter(&opened(&server.url, json!({})), Path::new("/a"), digest).unwrap();
    assert_eq!(server.bodies("/v1/load_lora_adapter").len(), 2);
    let stopped =
        opened(&server.url, json!({}))
            .with_adapter(Path::new("/a"), Digest::of_bytes(b"never"), &mut |_| ControlFlow::Break(()));
    // Either it was faster than the first look, or it was stopped.
    assert!(stopped.is_ok() || stopped.is_err_and(|trouble| trouble.is_cancelled()));
}

#[test]
fn a_revision_is_compared_where_the_server_tells_it() {
    let digest = Digest::of_bytes(b"files").to_string();
    let told = digest.clone();
    let server = Scripted::new(move |_, _| {
        let mut list = models("triplay");
        list["data"][0]["digest"] = told.clone().into();
        ok(list)
    });
    let open = |revision: &str| {
        let model = Model { name: "frost".into(), revision: Some(revision.into()) };
        Endpoint::open(
            "t",
            &config(&server.url, json!({})),
            &model,
            &Needs::default(),
            Path::new("/"),
            &mut |_| ControlFlow::Continue(()),
        )
    };
    assert!(open(&digest).is_ok());
    let error = open("main").map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("the model `frost` must have the revision main, found "), "{error}");
}

#[test]
fn a_journal_that_cannot_be_written_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Journal::open(file.path()).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("cannot keep finished rows in "), "{error}");
}
