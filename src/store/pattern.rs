//! The patterns of `.gitignore`, for paths with `/` between their parts.

/// A line of a `.gitignore`.
pub(super) struct Pattern {
    parts: Vec<Part>,
    /// Whether it is for folders alone: `out/`.
    is_of_folders: bool,
    /// Whether what it matches counts after all: `!keep.log`.
    pub keeps: bool,
}

/// What one part of a path, or several, must be like.
enum Part {
    /// Any number of folders: `**`.
    Folders,
    Name(Vec<Token>),
}

enum Token {
    /// Any characters: `*`.
    Star,
    /// One character: `?`.
    Any,
    Char(char),
    /// `[a-z]`, `[!0-9]`.
    Class {
        is_not: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// Reads a line; `None` if it is empty or a comment.
    pub(super) fn parse(line: &str) -> Result<Option<Pattern>, String> {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let (keeps, rest) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
        let (is_of_folders, rest) = rest.strip_suffix('/').map_or((false, rest), |rest| (true, rest));
        // Without a slash before its end it is for files in all folders.
        let mut parts = if rest.contains('/') { Vec::new() } else { vec![Part::Folders] };
        for name in rest.trim_start_matches('/').split('/') {
            parts.push(if name == "**" { Part::Folders } else { Part::Name(tokens(name)?) });
        }
        // `out/**` is what is in `out`, not `out`.
        if rest.ends_with("/**") {
            parts.push(Part::Name(vec![Token::Star]));
        }
        Ok(Some(Pattern { parts, is_of_folders, keeps }))
    }

    pub(super) fn is_of(&self, path: &str, is_folder: bool) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        let fits = |part: &Part, name: &&str| match part {
            Part::Folders => false,
            // A name is never empty; that of a folder elsewhere is, so that no `*` stands for it.
            Part::Name(tokens) => !name.is_empty() && fit(tokens, name),
        };
        (is_folder || !self.is_of_folders)
            && starred(&self.parts, &names, |part| matches!(part, Part::Folders), fits)
    }
}

/// Whether a text is like a pattern in which `*` stands for any characters, `?` for one, and all others for themselves.
pub fn is_like(pattern: &str, text: &str) -> bool {
    let token = |c| match c {
        '*' => Token::Star,
        '?' => Token::Any,
        other => Token::Char(other),
    };
    fit(&pattern.chars().map(token).collect::<Vec<_>>(), text)
}

fn fit(tokens: &[Token], text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    let fits = |token: &Token, c: &char| match token {
        Token::Star => false,
        Token::Any => true,
        Token::Char(known) => known == c,
        Token::Class { is_not, ranges } => {
            *is_not != ranges.iter().any(|(from, to)| (from..=to).contains(&c))
        }
    };
    starred(tokens, &characters, |token| matches!(token, Token::Star), fits)
}

/// Whether all of `items` fit the pattern, where a star stands for any number of them. The last star takes as few as possible: no
/// other choice can succeed where that fails, so the time is at most the product of both lengths.
fn starred<P, T>(
    pattern: &[P],
    items: &[T],
    is_star: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut item, mut star) = (0, 0, None);
    loop {
        match (pattern.get(at), items.get(item)) {
            (Some(part), _) if is_star(part) => {
                star = Some((at + 1, item));
                at += 1;
            }
            (Some(part), Some(found)) if fits(part, found) => (at, item) = (at + 1, item + 1),
            (None, None) => return true,
            _ => match star {
                Some((after, from)) if from < items.len() => {
                    star = Some((after, from + 1));
                    (at, item) = (after, from + 1);
                }
                _ => return false,
            },
        }
    }
}

fn tokens(name: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::Char(rest.next().ok_or("`\\` must have a character after it")?),
            '[' => {
                let is_not = rest.next_if(|c| matches!(c, '!' | '^')).is_some();
                let mut ranges = Vec::new();
                loop {
                    let mut character = || match rest.next() {
                        Some('\\') => rest.next(),
                        other => other,
                    };
                    let from = character().ok_or("`[` must have a `]` after it")?;
                    if from == ']' && !ranges.is_empty() {
                        break;
                    }
                    let to = match rest.next_if_eq(&'-') {
                        Some(_) if rest.peek() != Some(&']') => rest.next().unwrap_or(from),
                        Some(_) => {
                            ranges.push(('-', '-'));
                            from
                        }
                        None => from,
                    };
                    ranges.push((from, to));
                }
                Token::Class { is_not, ranges }
            }
            other => Token::Char(other),
        });
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_those_of_git() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("a", "b/a", true),
            ("a", "ab", false),
            ("/a", "b/a", false),
            ("b/a", "b/a", true),
            ("b/a", "c/b/a", false),
            ("**/b/a", "c/d/b/a", true),
            ("**/b/a", "b/a", true),
            ("b/**/a", "b/a", true),
            ("b/**/a", "b/c/d/a", true),
            ("b/**", "b/c/d", true),
            ("b/**", "b", false),
            ("*.log", "b/a.log", true),
            ("*.log", ".log", true),
            ("*.log", "a.log.1", false),
            ("b/*", "b/c", true),
            ("b/*", "b/c/d", false),
            ("?.p[yc]", "a.py", true),
            ("[!a-c]", "b", false),
            ("[!a-c]", "d", true),
            ("[]-]x", "-x", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\#a", "#a", true),
            ("*a*b*a*", "xaxbxax", true),
            ("*a*b*a*", "xaxbx", false),
            ("ä?", "äö", true),
        ] {
            let parsed = Pattern::parse(pattern).unwrap().unwrap();
            assert_eq!(parsed.is_of(path, false), expected, "{pattern} and {path}");
        }
        let folder = Pattern::parse("out/").unwrap().unwrap();
        assert!(folder.is_of("b/out", true) && !folder.is_of("out", false));
        assert!(Pattern::parse("!a").unwrap().unwrap().keeps);
        for line in ["", "  ", "# a"] {
            assert!(Pattern::parse(line).unwrap().is_none(), "{line}");
        }
        for line in ["a[", "[]", "a\\"] {
            assert!(Pattern::parse(line).is_err(), "{line}");
        }
        let hostile = Pattern::parse(&"*a".repeat(100)).unwrap().unwrap();
        assert!(!hostile.is_of(&format!("{}b", "a".repeat(250)), false), "in no time");
    }

    #[test]
    fn a_star_stands_for_any_text_and_a_question_mark_for_one_character() {
        for (pattern, text) in
            [("*", ""), ("a*", "a"), ("*b", "aab"), ("a*c*e", "abcde"), ("r[?]/a", "r[1]/a"), ("é?", "éa")]
        {
            assert!(is_like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a", "ab"), ("?", ""), ("a*b", "abc"), ("r[?]/a", "r[12]/a")] {
            assert!(!is_like(pattern, text), "{pattern} {text}");
        }
    }
}
