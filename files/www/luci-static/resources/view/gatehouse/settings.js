'use strict';
'require view';
'require form';
'require uci';
'require gatehouse.options as options';

/*
 * Settings: every option of /etc/config/gatehouse, with what it means and takes.
 *
 * Keeps nothing; the form is made out of the options that the agent knows. An option left empty is its default; where
 * nothing is to be, the word is "none".
 */

const anything = /^[^\u0000-\u001f\u007f]{0,255}$/;

/* What the agent takes for a value, as far as LuCI has no data type for it. */
const checks = {
	path: /^\/.{0,106}$/,
	device: /^[A-Za-z0-9_.@-]{1,15}$/,
	text: anything
};

const datatypes = { host: 'host', address: 'ipaddr', prefix: 'cidr', prefix4: 'cidr4', prefix6: 'cidr6', mac: 'macaddr' };

function check(option) {
	return function(section, value) {
		return value === '' || (option.none && value === 'none') || (checks[option.kind] || anything).test(value) || _('This is not what the option takes.');
	};
}

/* LuCI takes descriptions for markup. */
function plain(text) {
	return text.replace(/&/g, '&amp;').replace(/</g, '&lt;');
}

/* What is equal to its default is left out of the file. */
function addFlag(section, option) {
	const made = section.option(form.Flag, option.name, option.name, plain(option.about));
	made.default = option.fallback;
	/* The agent knows more words for yes than LuCI. */
	made.load = function(id) {
		const value = uci.get('gatehouse', id, option.name);
		return value == null ? value : /^(?:1|on|true|yes|enabled)$/.test(value) ? '1' : '0';
	};
}

function add(section, option) {
	if (option.kind === 'flag') {
		addFlag(section, option);
		return;
	}
	const widget = option.words
		? option.list ? form.MultiValue : form.ListValue
		: option.list ? form.DynamicList : form.Value;
	const about = option.unit ? _('%s, in %s').format(option.about, option.unit) : option.about;
	const made = section.option(widget, option.name, option.name, plain(about));
	if (option.words) {
		option.words.forEach(function(word) { made.value(word); });
		made.default = option.fallback;
		return;
	}
	made.optional = true;
	made.placeholder = [].concat(option.fallback).join(', ') || (option.none ? 'none' : '');
	if (option.kind === 'number')
		made.datatype = 'and(uinteger,range(' + option.least + ',' + option.most + '))';
	else if (datatypes[option.kind])
		made.datatype = datatypes[option.kind];
	else
		made.validate = check(option);
}

return view.extend({
	load: function() {
		return uci.load('gatehouse');
	},

	render: function() {
		const map = new form.Map('gatehouse', _('Settings'),
			_('An option that is left empty has its default, which is shown in grey; none says that there is to be nothing. Changes are in force when they are applied, without losing a connection or a block.'));
		map.tabbed = true;
		options.sections.forEach(function(kind) {
			const section = map.section(form.TypedSection, kind.type, kind.title);
			section.anonymous = !kind.many;
			/* A section that is not in the file can be added, so that its options can be set. */
			section.addremove = kind.many || uci.sections('gatehouse', kind.type).length === 0;
			kind.options.forEach(function(option) { add(section, option); });
		});
		return map.render();
	}
});
