# Provider keys by sops-nix: one file of KEY=VALUE lines, decrypted at activation, mode 0400, for the gateway's unit only.
# A changed secret reloads the gateway; no stream is dropped.
{ config, lib, ... }:
let
  cfg = config.services.choir.platformSecrets;
in
{
  options.services.choir.platformSecrets = {
    enable = lib.mkEnableOption "provider keys managed by sops-nix";
    sopsFile = lib.mkOption {
      type = lib.types.path;
      description = "The encrypted dotenv file, e.g. ./secrets/choir-providers.env.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = config.services.choir.enable;
        message = "services.choir.platformSecrets needs services.choir.enable.";
      }
    ];
    sops.secrets."choir-providers.env" = {
      inherit (cfg) sopsFile;
      format = "dotenv";
      key = ""; # the whole file
      mode = "0400";
      owner = "choir-gateway";
      group = "choir-gateway";
      reloadUnits = [ "choir-gateway.service" ];
    };
    # The gateway reads this file itself, so a reload is enough; systemd's copy of it is not wanted.
    systemd.services.choir-gateway.environment.CHOIR_ENV_FILE = config.sops.secrets."choir-providers.env".path;
    systemd.services.choir-gateway.serviceConfig = {
      LoadCredential = lib.mkForce [
        "token.key:${config.services.choir.stateFolder}/token.key"
        "local.key:${config.services.choir.stateFolder}/local.key"
      ];
      ExecReload = lib.mkForce "/run/current-system/sw/bin/kill -HUP $MAINPID";
    };
  };
}
