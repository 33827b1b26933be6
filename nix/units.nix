# Choir's systemd units, from the same table as `choir install systemd`: src/choir/data/units.toml.
# units { choir = "/path/to/choir"; … } is an attribute set by unit name, with `sections` and the rendered `text`.
{ choir
, config ? "/etc/choir/choir.toml"
, keys ? "/etc/choir/keys"
, state ? "/var/lib/choir"
, listen ? "127.0.0.1:7000"
, bin ? "/usr/bin"
}:
let
  table = builtins.fromTOML (builtins.readFile ../src/choir/data/units.toml);
  values = {
    inherit choir config keys state listen bin;
    folder = builtins.replaceStrings [ "/var/lib/" ] [ "" ] state;
  };
  names = builtins.attrNames values;
  fill = builtins.replaceStrings (map (name: "{${name}}") names) (map (name: values.${name}) names);
  value = v: if builtins.isList v then map value v else if builtins.isString v then fill v else v;
  sections = builtins.mapAttrs (_: builtins.mapAttrs (_: builtins.mapAttrs (_: value))) table;
in
sections
