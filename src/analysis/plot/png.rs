//! The SVG as a PNG, with an embedded font, so that it looks the same on every machine.

use std::sync::Arc;

use anyhow::Context;
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{self, fontdb};

use super::Picture;

/// DejaVu Sans with Latin and Greek letters and common symbols.
const FONT: &[u8] = include_bytes!("DejaVuSans.ttf");

/// Pixels per SVG unit: sharp in print and on high-resolution screens.
const SCALE: f32 = 2.0;

/// The picture as a PNG on white.
pub fn png(picture: &Picture) -> anyhow::Result<Vec<u8>> {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    let options = usvg::Options {
        fontdb: Arc::new(fonts),
        font_family: "DejaVu Sans".into(),
        ..usvg::Options::default()
    };
    let tree = usvg::Tree::from_str(&super::svg(picture), &options)?;
    let size = tree.size().to_int_size().scale_by(SCALE).context("the picture is too large")?;
    let mut pixels = Pixmap::new(size.width(), size.height()).context("the picture is too large")?;
    pixels.fill(Color::WHITE);
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    Ok(pixels.encode_png()?)
}

/// Whether a file's beginning is that of such a picture: a PNG of this size.
pub fn is_png(beginning: &[u8]) -> bool {
    let pixels = |size: f64| ((size * f64::from(SCALE)) as u32).to_be_bytes();
    let (width, height) = super::svg::SIZE;
    let head = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &pixels(width)[..], &pixels(height)].concat();
    beginning.starts_with(&head)
}
