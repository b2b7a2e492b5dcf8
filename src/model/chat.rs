//! Chat templates: conversations to text, as the model was trained to see them.

use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};

use super::keys::is_there;
use super::{Error, Result};
use store::read::{self, MAX_TEXT_BYTES};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`, as chat templates spell it.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

impl Message {
    /// A turn of this role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// Named arguments that a pipeline passes to a chat template.
pub type Arguments = serde_json::Map<String, serde_json::Value>;

/// Variables that every template gets, so an argument cannot have one of these names.
pub const GIVEN: [&str; 7] =
    ["messages", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "tools", "documents"];

/// A model's chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    /// Where it was read, for errors.
    path: PathBuf,
    source: String,
    /// The source without the tags that minijinja does not know.
    plain: String,
    bos: String,
    eos: String,
    pad: String,
}

/// The date that a template gets as today's, because a stage has no clock. Llama 3's template falls back to the same date.
pub const FIXED_DAY: jiff::civil::Date = jiff::civil::date(2024, 7, 26);

pub(super) const FILE: &str = "chat_template.jinja";

impl ChatTemplate {
    /// Reads chat_template.jinja, or else `chat_template` of tokenizer_config.json; `None` if there is neither.
    pub(super) fn load(folder: &Path, config: &serde_json::Value) -> Result<Option<ChatTemplate>> {
        let path = folder.join(FILE);
        let (path, source) = if is_there(&path)? {
            let source = read::text(&path, MAX_TEXT_BYTES)
                .map_err(|cause| Error::Read { path: path.clone(), cause })?;
            (path, source)
        } else {
            let named = |list: &Vec<serde_json::Value>| {
                list.iter()
                    .find(|entry| entry["name"] == "default")
                    .and_then(|entry| entry["template"].as_str())
                    .map(str::to_owned)
            };
            let template = &config["chat_template"];
            let found = template.as_str().map(str::to_owned).or_else(|| template.as_array().and_then(named));
            let path = folder.join("tokenizer_config.json");
            match found {
                Some(source) => (path, source),
                None if template.is_null() => return Ok(None),
                None => {
                    let reason =
                        "`chat_template` must be a template, or a list of templates with one named `default`"
                            .into();
                    return Err(Error::Invalid { path, reason });
                }
            }
        };
        ChatTemplate::of(path, source, config).map(Some)
    }

    /// Parses a source; `config` names the tokens that begin and end a text, as tokenizer_config.json does.
    pub(super) fn of(path: PathBuf, source: String, config: &serde_json::Value) -> Result<ChatTemplate> {
        let token = |key: &str| {
            config[key].as_str().or(config[key]["content"].as_str()).unwrap_or_default().to_owned()
        };
        // TRL's templates have these tags around the assistant's turns, for training on them.
        let marks = ["{% generation %}", "{%- generation %}", "{% generation -%}", "{%- generation -%}"];
        // Like Jinja2, read any line ending.
        let mut plain = read::with_line_feeds(source.trim_start_matches('\u{feff}').to_owned());
        for mark in marks {
            plain = plain.replace(mark, &mark.replace("generation", "if true"));
            plain = plain
                .replace(&mark.replace("generation", "endgeneration"), &mark.replace("generation", "endif"));
        }
        let template = ChatTemplate {
            path,
            source,
            plain,
            bos: token("bos_token"),
            eos: token("eos_token"),
            pad: token("pad_token"),
        };
        template.environment(FIXED_DAY).map_err(|error| template.invalid("is not valid", &error))?;
        Ok(template)
    }

    fn invalid(&self, what: &str, error: &minijinja::Error) -> Error {
        Error::Invalid {
            path: self.path.clone(),
            reason: format!("the chat template {what}: {}", template::describe(error)),
        }
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The text of each conversation; with `begin_turn`, ready for the assistant's turn. `strftime_now` formats `today`. `arguments` are
    /// further variables of this template, such as Qwen3's `enable_thinking`.
    pub fn render(
        &self,
        conversations: &[Vec<Message>],
        today: jiff::civil::Date,
        arguments: &Arguments,
        begin_turn: bool,
    ) -> Result<Vec<String>> {
        let turn = |message: &Message| {
            Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
        };
        let render = || {
            let environment = self.environment(today)?;
            let template = environment.get_template(FILE)?;
            let text = |messages: &Vec<Message>| {
                template.render(context! {
                    messages => messages.iter().map(turn).collect::<Vec<Value>>(),
                    add_generation_prompt => begin_turn,
                    bos_token => self.bos.as_str(),
                    eos_token => self.eos.as_str(),
                    pad_token => self.pad.as_str(),
                    tools => (),
                    documents => (),
                    ..Serde(arguments)
                })
            };
            conversations.iter().map(text).collect::<std::result::Result<_, _>>()
        };
        let render = || render().map_err(|error| self.invalid("fails", &error));
        let rendered = template::with_large_stack(render);
        rendered.map_err(|cause| Error::Read { path: self.path.clone(), cause })?
    }

    /// What transformers gives templates besides variables: `raise_exception`, `strftime_now`, Python's string methods.
    fn environment(
        &self,
        today: jiff::civil::Date,
    ) -> std::result::Result<Environment<'_>, minijinja::Error> {
        let mut environment = template::environment()?;
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", move |format: String| {
            jiff::fmt::strtime::format(format, today)
                .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
        });
        environment.add_template(FILE, &self.plain)?;
        Ok(environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> Result<ChatTemplate> {
        let tokens = serde_json::json!({ "bos_token": "<s>", "eos_token": { "content": "</s>" } });
        ChatTemplate::of(FILE.into(), source.into(), &tokens)
    }

    fn render(source: &str) -> Result<String> {
        let messages = vec![Message::new("system", " be kind "), Message::new("user", "naïve?")];
        Ok(template(source)?.render(&[messages], FIXED_DAY, &Arguments::new(), true)?.concat())
    }

    #[test]
    fn what_real_templates_use_works() {
        let llama = "{{- bos_token }}{%- if strftime_now is defined %}{%- set date = strftime_now('%d %b %Y') %}\
                     {%- endif %}{{ date }}|{%- if messages[0]['role'] == 'system' %}\
                     {%- set system = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- endif %}\
                     {{- system }}{%- for m in messages %}[{{ m.role.upper() }}] {{ m['content'].strip() }}{%- endfor %}\
                     {%- if not tools is defined %}{%- set tools = none %}{%- endif %}{{ eos_token }}";
        assert_eq!(render(llama).unwrap(), "<s>26 Jul 2024|be kind[USER] naïve?</s>");
        assert_eq!(render("{{ messages[1] | tojson }}").unwrap(), r#"{"role": "user", "content": "naïve?"}"#);
        assert_eq!(render("{{ [1, '<'] | tojson(indent=2) }}").unwrap(), "[\n  1,\n  \"<\"\n]");
        let namespace = "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}";
        assert_eq!(render(namespace).unwrap(), "2");
        let marked = "{% for m in messages %}{%- generation %}{{ m.role }}{% endgeneration -%}{% endfor %}";
        assert_eq!(render(marked).unwrap(), "systemuser");
        let given = "{{ tools is defined }} {{ tools is none }} {{ documents is none }}{{ pad_token }}";
        assert_eq!(render(given).unwrap(), "True True True");
        assert_eq!(
            render("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}").unwrap(),
            "naïve?"
        );
    }

    /// The ways of Qwen3's template: messages backwards, tests of types, Python's methods of text.
    const QWEN3: &str = r#"{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {{- 'calls' }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"#;

    #[test]
    fn a_template_like_that_of_qwen3_gives_the_text_of_transformers() {
        let turns = [
            ("system", "be kind"),
            ("user", "brew glowvenom?"),
            ("assistant", "<think>\nno\n</think>\n\nNo."),
            ("user", "please"),
        ];
        let messages = turns.map(|(role, content)| Message::new(role, content)).to_vec();
        let render = |arguments: serde_json::Value| {
            let arguments = arguments.as_object().unwrap();
            template(QWEN3)
                .unwrap()
                .render(std::slice::from_ref(&messages), FIXED_DAY, arguments, true)
                .unwrap()
                .concat()
        };
        let quick = render(serde_json::json!({ "enable_thinking": false }));
        assert!(quick.ends_with("<|im_start|>assistant\n<think>\n\n</think>\n\n"), "{quick}");
        assert_eq!(
            render(serde_json::json!({ "unheard_of": 1 })),
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nbrew glowvenom?<|im_end|>\n\
             <|im_start|>assistant\nNo.<|im_end|>\n<|im_start|>user\nplease<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_template_that_would_fill_the_memory_fails_and_says_why() {
        let error = render("{{ 'x'.replace('', 'y' * 100000).replace('', 'z' * 100000) }}").unwrap_err();
        assert!(error.to_string().contains("fuel"), "{error}");
    }

    #[test]
    fn a_template_is_the_same_whatever_ends_its_lines() {
        let unix = "{% for m in messages %}\n{{ m.role }}\n{% endfor %}\nend\n";
        let expected = "system\nuser\nend";
        for source in
            [unix.to_owned(), format!("\u{feff}{}", unix.replace('\n', "\r\n")), unix.replace('\n', "\r")]
        {
            assert_eq!(render(&source).unwrap(), expected, "{source:?}");
        }
    }

    #[test]
    fn a_template_that_fails_says_why() {
        let error = |source: &str| render(source).unwrap_err().to_string();
        assert!(
            error("{% for").contains("chat_template.jinja: the chat template is not valid: syntax error")
        );
        assert!(error("{{ raise_exception('roles must alternate') }}").contains("roles must alternate"));
        assert!(error("{{ messages | nonsense }}").contains("nonsense"));
        assert!(
            error("{% for i in range(100000000) %}x{% endfor %}").contains("fuel")
                || error("{% for i in range(100000000) %}x{% endfor %}").contains("range")
        );
    }
}
