# NixOS: the services of a Choir server. Provider keys come from choir-platform-secrets.nix or from `keysFolder`.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.choir;
  toml = pkgs.formats.toml { };
  units = import ../units.nix {
    choir = cfg.executable;
    config = toString (toml.generate "choir.toml" cfg.settings);
    keys = cfg.keysFolder;
    state = cfg.stateFolder;
    listen = cfg.listen;
    bin = "/run/current-system/sw/bin";
  };
  # NixOS has its own names for [Install], and makes [Unit] and [Service] from attribute sets.
  words = v: if v == null then [ ] else lib.splitString " " v;
  common = unit: {
    unitConfig = unit.Unit;
    wantedBy = words (unit.Install.WantedBy or null);
  };
  service = name: common units."${name}.service" // { serviceConfig = units."${name}.service".Service; };
  # What a unit is given, as one text: credentials, files of variables, variables.
  given = name: builtins.toJSON {
    credentials = config.systemd.services.${name}.serviceConfig.LoadCredential or [ ];
    encrypted = config.systemd.services.${name}.serviceConfig.LoadCredentialEncrypted or [ ];
    set = config.systemd.services.${name}.serviceConfig.SetCredential or [ ];
    files = config.systemd.services.${name}.serviceConfig.EnvironmentFile or [ ];
    variables = config.systemd.services.${name}.serviceConfig.Environment or [ ];
    environment = config.systemd.services.${name}.environment or { };
  };
  looksLikeKey = text: builtins.match ".*(providers\\.env|age\\.key|_API_KEY|_ACCESS_KEY|_TOKEN|_SECRET).*" text != null;
in
{
  options.services.choir = {
    enable = lib.mkEnableOption "Choir, which runs AI agents for many people without giving any agent a key";
    executable = lib.mkOption {
      type = lib.types.str;
      example = "/opt/choir/current/bin/choir";
      description = "The `choir` command, absolute.";
    };
    listen = lib.mkOption {
      type = lib.types.str;
      default = "127.0.0.1:7000";
      description = "Where the desktop is served; put a TLS proxy in front of it.";
    };
    stateFolder = lib.mkOption {
      type = lib.types.str;
      default = "/var/lib/choir";
      description = "Workspaces, accounts and usage; below /var/lib.";
    };
    keysFolder = lib.mkOption {
      type = lib.types.str;
      default = "/etc/choir/keys";
      description = "Root's own folder (0700) with providers.env (0600), when sops-nix does not bring it.";
    };
    localModel = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = "Whether to run the small model of this machine.";
    };
    settings = lib.mkOption {
      type = toml.type;
      default = { };
      example = { providers.openai = { }; limits.usd_per_day = 5.0; };
      description = "choir.toml: providers, limits and the rest. Never a key: it is readable by everyone, as the store is.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = builtins.substring 0 9 cfg.stateFolder == "/var/lib/";
        message = "services.choir.stateFolder: the services can write below /var/lib only; mount the disk there.";
      }
      {
        assertion = !(looksLikeKey (builtins.toJSON (cfg.settings.sandbox.forward_env or [ ])));
        message = "services.choir.settings.sandbox.forward_env: a credential never enters a sandbox.";
      }
    ] ++ map
      (name: {
        assertion = !(looksLikeKey (given name));
        message = "services.choir: a provider key is given to ${name}.service; only choir-gateway.service may have one.";
      })
      [ "choir" "choir-model" "choir-keys" "choir-verify" ];
    users.users.choir-gateway = { isSystemUser = true; group = "choir-gateway"; };
    users.groups.choir-gateway = { };
    users.users.choir-model = { isSystemUser = true; group = "choir-gateway"; };
    systemd.services = {
      choir-keys = service "choir-keys";
      choir-gateway = service "choir-gateway";
      choir = service "choir";
      choir-verify = service "choir-verify";
    } // lib.optionalAttrs cfg.localModel { choir-model = service "choir-model"; };
    systemd.timers.choir-verify = common units."choir-verify.timer" // { timerConfig = units."choir-verify.timer".Timer; };
    systemd.sockets.choir = common units."choir.socket" // { socketConfig = units."choir.socket".Socket; };
  };
}
