//! Prints what a model makes of texts as JSON, for comparison with other implementations: token ids and logits,
//! or the vector of a sentence encoder. `cargo run --release --example numbers -- MODEL TEXT…`

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use triplay::model::{Checkpoint, Compute, Embedder, Packed, Purpose};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().context("usage: numbers MODEL TEXT…")?;
    let (folder, texts): (&Path, Vec<String>) = (folder.as_ref(), args.collect());
    let compute = Compute::default();
    let numbers: Vec<Value> = if Embedder::is_in(folder) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = Embedder::load(folder, &compute)?.embed(&texts)?;
        vectors.into_iter().map(|vector| json!({ "embedding": vector })).collect()
    } else {
        let model = Checkpoint::load(folder, &compute)?;
        let decoder = model.decoder(Purpose::Scoring)?;
        let numbers = |text: &String| {
            let ids = model.tokenizer.encode(text)?;
            let logits = decoder.logits(&decoder.hidden(&Packed::new(&[&ids]))?)?;
            Ok(json!({ "ids": ids, "logits": logits.to_vec2::<f32>()? }))
        };
        texts.iter().map(numbers).collect::<anyhow::Result<_>>()?
    };
    println!("{}", Value::from(numbers));
    Ok(())
}
