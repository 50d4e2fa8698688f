# What every recipe with a teacher adds to its student's config.
custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)
