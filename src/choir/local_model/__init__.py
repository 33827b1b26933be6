"""The provider ``local``: SmolLM2 135M through llama.cpp, on this machine and without any key."""
