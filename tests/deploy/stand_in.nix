# A minimal stand-in of NixOS' module system: enough to evaluate Choir's modules without nixpkgs.
# Options with defaults, mkIf, mkForce, lists that join, sets that merge; `result` is what NixOS would act on.
{ modules, settings }:
let
  lib = rec {
    mkEnableOption = description: mkOption { type = types.bool; default = false; inherit description; };
    mkOption = option: { _option = true; } // option;
    mkIf = condition: content: { _if = condition; inherit content; };
    mkForce = content: { _force = true; inherit content; };
    optionalAttrs = condition: set: if condition then set else { };
    splitString = separator: text: builtins.filter builtins.isString (builtins.split separator text);
    types = { bool = "bool"; str = "str"; path = "path"; };
  };
  pkgs.formats.toml = _: { type = "toml"; generate = name: value: "/nix/store/x-${name}"; };

  isForce = v: builtins.isAttrs v && v ? _force;
  merge = old: new:
    if isForce new then new
    else if isForce old then old
    else if builtins.isAttrs old && builtins.isAttrs new then
      old // builtins.mapAttrs (name: v: if old ? ${name} then merge old.${name} v else v) new
    else if builtins.isList old && builtins.isList new then old ++ new
    else if old == new then old
    else throw "conflicting definitions: ${builtins.toJSON old} and ${builtins.toJSON new}";
  clean = v: if isForce v then v.content else if builtins.isAttrs v then builtins.mapAttrs (_: clean) v else v;
  defaults = options: builtins.mapAttrs
    (_: o: if o ? _option then o.default or (throw "an option without a value") else defaults o)
    options;

  called = map (path: import path { inherit config lib pkgs; }) modules;
  content = module: if module.config ? _if then (if module.config._if then module.config.content else { }) else module.config;
  base = builtins.foldl' merge { } (map (module: defaults (module.options or { })) called);
  # What the machine's owner sets wins over a default; the rest comes from the modules.
  given = let over = a: b: a // builtins.mapAttrs (name: v: if a ? ${name} && builtins.isAttrs v && builtins.isAttrs a.${name} then over a.${name} v else v) b; in over base settings;
  # Options never depend on what modules define below systemd, users and sops: that keeps this free of a fixed point.
  defined = builtins.foldl' merge { } (map content called);
  config = given // {
    systemd = clean (merge (settings.systemd or { }) (defined.systemd or { }));
    sops = stored;
  };
  # sops-nix decides where a secret appears.
  stored = { secrets = builtins.mapAttrs (name: secret: secret // { path = "/run/secrets/${name}"; }) (defined.sops.secrets or { }); };
in
{
  inherit (config) systemd sops;
  users = clean (defined.users or { });
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) (defined.assertions or [ ]));
}
