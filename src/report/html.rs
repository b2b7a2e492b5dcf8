//! The page as one self-contained file: `page/` with style, scripts and data inserted. Data cannot become markup: they are JSON
//! without `<`, or base64.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::model::{Report, Samples};

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");

/// In the order of concatenation; `main` starts the page, so it is last.
const SCRIPTS: [&str; 15] = [
    include_str!("page/dom.js"),
    include_str!("page/format.js"),
    include_str!("page/table.js"),
    include_str!("page/headline.js"),
    include_str!("page/chart.js"),
    include_str!("page/matrix.js"),
    include_str!("page/layout.js"),
    include_str!("page/graph.js"),
    include_str!("page/lineage.js"),
    include_str!("page/runs.js"),
    include_str!("page/samples-data.js"),
    include_str!("page/detail.js"),
    include_str!("page/samples.js"),
    include_str!("page/live.js"),
    include_str!("page/main.js"),
];

const ROOT: &str = r#"<html lang="en">"#;

/// Identifies reports among other files: the beginning of the page's first comment.
const MARK: &str = "The page of `triplay report`";

/// A report with everything in it.
pub fn report(report: &Report, samples: &Samples) -> anyhow::Result<String> {
    let mut data = format!("<script type=\"application/json\" id=\"report\">{}</script>", embedded(report)?);
    if !samples.attack_number.is_empty() {
        let packed = STANDARD.encode(gzip(&serde_json::to_vec(samples)?)?);
        data += &format!("\n<script type=\"text/plain\" id=\"samples\">{packed}</script>");
    }
    Ok(page(ROOT, &report.title, &random_hex()?, &data))
}

/// The live page, which requests its data.
pub(crate) fn live(nonce: &str) -> String {
    page(r#"<html lang="en" data-live="1">"#, "triplay", nonce, "")
}

/// Inserts the parts in one pass: inserted text is never searched again.
fn page(root: &str, title: &str, nonce: &str, data: &str) -> String {
    let (title, scripts) = (escaped(title), SCRIPTS.join("\n"));
    let parts = [
        (ROOT, root),
        ("NONCE", nonce),
        ("<!--TITLE-->", &title),
        ("/*STYLE*/", STYLE),
        ("/*SCRIPT*/", &scripts),
        ("<!--DATA-->", data),
    ];
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + scripts.len() + data.len());
    let mut rest = PAGE;
    while let Some((at, (place, part))) =
        parts.iter().filter_map(|part| Some((rest.find(part.0)?, *part))).min_by_key(|(at, _)| *at)
    {
        page += &rest[..at];
        page += part;
        rest = &rest[at + place.len()..];
    }
    page + rest
}

/// JSON for a script element: nothing in it ends the element, and no line separator ends a string.
fn embedded(value: &impl Serialize) -> anyhow::Result<String> {
    let json = serde_json::to_string(value)?;
    let mut text = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            // These occur only in strings.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text += &format!("\\u{:04x}", char as u32),
            char => text.push(char),
        }
    }
    Ok(text)
}

/// Escapes text between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub(crate) fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// 128 random bits.
pub(crate) fn random_hex() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a file's beginning is that of a report.
pub fn is_report(beginning: &[u8]) -> bool {
    memchr::memmem::find(&beginning[..beginning.len().min(1024)], MARK.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    const HOSTILE: &str = "</script><script>alert(1)</script><!--DATA-->NONCE\u{2028}&amp;";

    #[test]
    fn hostile_texts_stay_texts() {
        let made = Report { title: HOSTILE.into(), notices: vec![HOSTILE.into()], ..Report::default() };
        let samples = Samples { strings: vec![HOSTILE.into()], attack_number: vec![0], ..Samples::default() };
        let page = report(&made, &samples).unwrap();
        assert!(!page.contains("<script>alert"), "nothing of it is markup");
        assert_eq!(page.matches("<script").count(), page.matches("</script>").count());
        assert!(is_report(page.as_bytes()));
        let part = |id: &str| {
            let start = page.find(&format!("id=\"{id}\">")).unwrap() + id.len() + 6;
            &page[start..start + page[start..].find("</script>").unwrap()]
        };
        let read: serde_json::Value = serde_json::from_str(part("report")).unwrap();
        assert_eq!(read["notices"][0], HOSTILE, "and it comes back as it was");
        let mut json = String::new();
        GzDecoder::new(&STANDARD.decode(part("samples")).unwrap()[..]).read_to_string(&mut json).unwrap();
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["strings"][0], HOSTILE);
    }

    #[test]
    fn every_part_has_its_place_and_nonces_differ() {
        let (one, two) = (random_hex().unwrap(), random_hex().unwrap());
        assert_ne!(one, two);
        let page = live(&one);
        for place in ["NONCE", "<!--TITLE-->", "/*STYLE*/", "/*SCRIPT*/", "<!--DATA-->"] {
            let own = STYLE.matches(place).count()
                + SCRIPTS.iter().map(|script| script.matches(place).count()).sum::<usize>();
            assert_eq!(page.matches(place).count(), own, "{place}");
        }
        assert!(page.contains("data-live=\"1\""));
        assert!(page.contains(&format!("'nonce-{one}'")) && page.contains(&format!("nonce=\"{one}\"")));
    }
}
