//! The variables that a text for a shell reads.

use std::collections::BTreeSet;

/// The names after a `$` in a text for `sh`, without those that the text itself sets. This looks at words, not at the grammar of
/// the shell: it serves warnings only.
pub(crate) fn variables(text: &str) -> BTreeSet<String> {
    let is_space = |char: char| char.is_whitespace() || ";&|()`\"".contains(char);
    let words: Vec<&str> = text.split(is_space).collect();
    // `lr=…`, `for lr in …`, `read -r lr`.
    let sets = |name: &str| {
        let is_set = |word: &&str| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        words.iter().any(is_set)
            || words.contains(&name) && words.iter().any(|word| ["for", "read"].contains(word))
    };
    let mut names = expanded(text);
    names.retain(|name| !sets(name));
    names
}

/// The names after a `$` that is neither escaped nor in single quotes.
fn expanded(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut chars, mut single, mut double) = (text.chars().peekable(), false, false);
    while let Some(char) = chars.next() {
        match char {
            '\'' if !double => single = !single,
            _ if single => {}
            '"' => double = !double,
            '\\' => drop(chars.next()),
            '$' => {
                // `$$` is the number of the process.
                if chars.next_if_eq(&'$').is_some() {
                    continue;
                }
                let mut name = String::new();
                while let Some(next) = chars.next_if(|next| next.is_ascii_alphanumeric() || *next == '_') {
                    name.push(next);
                }
                if name.starts_with(|first: char| !first.is_ascii_digit()) {
                    names.insert(name);
                }
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_where_the_shell_expands_them() {
        let read = |text: &str| variables(text).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(read(r#"train --lr $lr "in $herb" $1 $$ $? ${x}"#), "herb lr");
        assert_eq!(read(r"awk '{ print $lr }' \$lr"), "");
        assert_eq!(read("lr=3; echo $lr; for h in a b; do echo $h; done; read -r x; echo $x $y"), "y");
        assert_eq!(read(r#"(lr=3 train $lr) && echo "it's $herb""#), "herb");
    }
}
