//! References as they are typed: `stage`, `stage.output`, `stage[variant].output`.

/// A parsed reference. Which stage, variant and output it means is decided in the scope that uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub name: String,
    pub variant: Option<String>,
    pub output: Option<String>,
}

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Reference, String> {
        let fail =
            || format!("`{text}` must be a reference: `stage`, `stage.output` or `stage[variant].output`");
        let name_end = text.find(['[', '.']).unwrap_or(text.len());
        let (name, mut rest) = text.split_at(name_end);
        let mut variant = None;
        if let Some(inside) = rest.strip_prefix('[') {
            let (label, after) = inside.split_once(']').ok_or_else(fail)?;
            variant = Some(label.split(',').map(str::trim).collect::<Vec<_>>().join(","));
            rest = after;
        }
        let output = match rest.strip_prefix('.') {
            Some(output) => Some(output.to_owned()),
            None if rest.is_empty() => None,
            None => return Err(fail()),
        };
        let well_formed = is_name(name) && output.as_deref().is_none_or(is_name);
        well_formed.then(|| Reference { name: name.to_owned(), variant, output }).ok_or_else(fail)
    }
}

/// Names of stages, parameters and outputs: a letter or `_`, then letters, digits, `_` and `-`.
pub fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|next| next.is_ascii_alphanumeric() || next == '_' || next == '-')
}

/// Whether this is `name` or `name.key.key`.
pub(crate) fn is_path(text: &str) -> bool {
    let mut steps = text.split('.');
    steps.next().is_some_and(is_name)
        && steps.all(|step| !step.is_empty() && step.chars().all(|c| c.is_alphanumeric() || "_-".contains(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_parse_and_others_do_not() {
        let parse = |text| Reference::parse(text).map(|r| (r.name, r.variant, r.output)).ok();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parse("attacks"), Some(("attacks".into(), None, None)));
        assert_eq!(parse("world.sft"), Some(("world".into(), None, some("sft"))));
        assert_eq!(parse("others[b, 2].model"), Some(("others".into(), some("b,2"), some("model"))));
        for wrong in ["", "a.", ".b", "a[b", "a[b]c", "a.b.c", "1a", "a b"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
