//! Wraps a seed prompt: by a technique, perhaps after a frame of another, perhaps in code words.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::seed_prompt::{SeedSpec, fill};
use super::world::{Profile, Shares, World, pick};

/// A wrapped seed prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct WrappedPrompt {
    /// The seed prompt that is wrapped.
    pub seed: SeedSpec,
    /// `story`; `authority+story` after a frame; `story/mirror` in code words.
    pub technique: String,
    /// The attack.
    pub text: String,
    /// The seed prompt in the words of the text.
    pub said: SeedSpec,
}

/// Which phrasings of a technique to draw from.
#[derive(Clone, Copy)]
pub(super) enum Phrasings {
    /// Those that the attacker learns.
    Known,
    HeldOut,
    All,
}

/// A technique, its phrasings, and perhaps a frame and a code.
pub(super) struct Style<'a> {
    technique: &'a str,
    phrasings: Phrasings,
    frame: Option<&'a str>,
    code: Option<&'a str>,
}

impl<'a> Style<'a> {
    /// A technique without frame and code.
    pub(crate) fn plain(technique: &'a str, phrasings: Phrasings) -> Style<'a> {
        Style { technique, phrasings, frame: None, code: None }
    }
}

impl World {
    /// The techniques with such phrasings.
    pub(super) fn techniques_with(&self, phrasings: Phrasings) -> Vec<&str> {
        let has = |name: &&str| {
            let technique = &self.techniques[*name];
            match phrasings {
                Phrasings::Known => !technique.phrasings.is_empty(),
                Phrasings::HeldOut | Phrasings::All => true,
            }
        };
        self.technique_names().into_iter().filter(has).collect()
    }

    /// A technique, with a frame or in code words as often as `share` of the warm-up says.
    pub(super) fn style<'a>(
        &'a self,
        technique: &'a str,
        phrasings: Phrasings,
        share: impl Fn(&Shares) -> f64,
        random: &mut ChaCha8Rng,
    ) -> Style<'a> {
        let mut style = Style::plain(technique, phrasings);
        let codes: Vec<&str> = self.codes.keys().map(String::as_str).collect();
        let (coded, framed) = (random.random::<f64>(), random.random::<f64>());
        if coded < share(&self.warmup.coded) && !codes.is_empty() {
            style.code = Some(*pick(&codes, random));
        }
        let frames: Vec<&str> = self
            .techniques
            .iter()
            .filter(|(name, other)| *name != technique && !other.frames.is_empty())
            .map(|(name, _)| name.as_str())
            .collect();
        if framed < share(&self.warmup.framed) && !frames.is_empty() {
            style.frame = Some(*pick(&frames, random));
        }
        style
    }

    /// Wraps a seed prompt in a style.
    pub(super) fn wrap(&self, seed: &SeedSpec, style: &Style, random: &mut ChaCha8Rng) -> WrappedPrompt {
        let technique = &self.techniques[style.technique];
        let candidates: Vec<&String> = match style.phrasings {
            Phrasings::Known => technique.phrasings.iter().collect(),
            Phrasings::HeldOut => technique.held_out.iter().collect(),
            Phrasings::All => technique.phrasings.iter().chain(&technique.held_out).collect(),
        };
        let mut said = seed.clone();
        let mut name = style.technique.to_owned();
        if let Some(code) = style.code {
            said.verb = self.codes[code][&seed.verb].clone();
            name = format!("{name}/{code}");
        }
        let phrasing: &&String = pick(&candidates, random);
        let mut text = fill(phrasing, &said);
        if let Some(frame) = style.frame {
            text = format!("{} {text}", pick(&self.techniques[frame].frames, random));
            name = format!("{frame}+{name}");
        }
        WrappedPrompt { seed: seed.clone(), technique: name, text, said }
    }
}

impl Profile {
    /// The probability that a defender of this profile complies with a hazard in this style: the code, or else the technique, may
    /// break it, and independently the frame.
    pub(super) fn complies(&self, style: &Style) -> f64 {
        let of = |technique: &str| self.comply.get(technique).copied().unwrap_or_default();
        let inner = match style.code {
            Some(code) => self.codes.get(code).copied().unwrap_or_default(),
            None => of(style.technique),
        };
        1.0 - (1.0 - inner) * (1.0 - style.frame.map_or(0.0, of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Seed;

    #[test]
    fn frames_and_codes_change_the_text_and_the_name() {
        let world = World::parse(World::embedded_text()).unwrap();
        let seed = world.seeds().into_iter().find(|seed| seed.id == "potions/brew/glowvenom").unwrap();
        let style = Style {
            technique: "game",
            phrasings: Phrasings::HeldOut,
            frame: Some("authority"),
            code: Some("mirror"),
        };
        let wrapped = world.wrap(&seed, &style, &mut Seed::from_u64(1).stream("x"));
        assert_eq!(wrapped.technique, "authority+game/mirror");
        assert!(
            wrapped.text.contains("werb glowvenom") && !wrapped.text.contains("brew"),
            "{}",
            wrapped.text
        );
        let frames = &world.techniques["authority"].frames;
        assert!(frames.iter().any(|frame| wrapped.text.starts_with(frame.as_str())));
        let profile = &world.defenders["a"];
        let (code, frame) = (profile.codes["mirror"], profile.comply["authority"]);
        assert!((profile.complies(&style) - (1.0 - (1.0 - code) * (1.0 - frame))).abs() < 1e-12);
    }
}
