{
  description = "Choir runs AI agents for many people on machines they own, and no agent ever holds a key";

  outputs = { self }: {
    nixosModules = {
      default = { imports = [ self.nixosModules.choir self.nixosModules.platform-secrets ]; };
      choir = import ./nix/modules/choir.nix;
      platform-secrets = import ./nix/modules/choir-platform-secrets.nix;
    };
    lib.units = import ./nix/units.nix;
  };
}
